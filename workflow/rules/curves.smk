# The loss on straight lines, by MPI ranks that share one queue.


use rule landscape as curves with:
    input:
        of_run(Run.data_ready),
        direction_stores_of("curves", "curve"),
        trajectory=TRAJECTORY,
        others=trajectories_of("curves", "curve"),
    output:
        directory(f"{RUN}/curves/{{curve}}.zarr"),
    log:
        f"{LOGS}/curves/{{curve}}.log",
    benchmark:
        f"{LOGS}/curves/{{curve}}.benchmark.tsv"
    resources:
        **ranks(8000, 60),
    params:
        script=SCRIPTS / "curves.py",
        spec=of_run(Run.curve_spec, "curve"),
        arguments=of_run(Run.curve_arguments, "curve"),
    message:
        "Loss on curve {wildcards.curve} of {wildcards.run} by {resources.tasks} MPI ranks"
