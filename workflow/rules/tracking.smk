# Hessian eigenvectors followed along training, by MPI ranks that share one queue.


use rule landscape as tracking with:
    input:
        of_run(Run.data_ready),
        trajectory=TRAJECTORY,
    output:
        directory(f"{RUN}/tracking.zarr"),
    log:
        f"{LOGS}/tracking.log",
    benchmark:
        f"{LOGS}/tracking.benchmark.tsv"
    resources:
        **ranks(8000, 480),
    params:
        script=SCRIPTS / "tracking.py",
        spec=of_run(Run.tracking_spec),
        arguments=of_run(Run.spectra_arguments),
    message:
        "Hessian eigenvectors along training of {wildcards.run} by {resources.tasks} MPI ranks"
