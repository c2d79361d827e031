# Hessian spectra along training and on lines between checkpoints, by MPI ranks that share one queue.


use rule landscape as spectra with:
    input:
        of_run(Run.data_ready),
        trajectory=TRAJECTORY,
        others=of_run(lambda run, name: [*run.spectra_others(name).values()], "spectra"),
    output:
        directory(f"{RUN}/{{spectra}}.zarr"),
    log:
        f"{LOGS}/{{spectra}}.log",
    benchmark:
        f"{LOGS}/{{spectra}}.benchmark.tsv"
    wildcard_constraints:
        spectra=r"spectra(|(_between)?/[A-Za-z0-9][A-Za-z0-9_-]*)",
    resources:
        **ranks(8000, 480),
    params:
        script=SCRIPTS / "spectra.py",
        spec=of_run(Run.spectra_spec, "spectra"),
        arguments=of_run(Run.spectra_arguments, "spectra"),
    message:
        "Hessian {wildcards.spectra} of {wildcards.run} by {resources.tasks} MPI ranks"
