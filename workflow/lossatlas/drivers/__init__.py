"""One module per kind of result: what its store holds, how its units are computed, how it is finished."""
