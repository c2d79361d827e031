# How the loss changes under Gaussian perturbations, by MPI ranks that share one queue.


use rule landscape as perturbations with:
    input:
        of_run(Run.data_ready),
        trajectory=TRAJECTORY,
    output:
        directory(f"{RUN}/perturbations/{{perturbation}}.zarr"),
    log:
        f"{LOGS}/perturbations/{{perturbation}}.log",
    benchmark:
        f"{LOGS}/perturbations/{{perturbation}}.benchmark.tsv"
    params:
        script=SCRIPTS / "perturbations.py",
        spec=of_run(Run.perturbation_spec, "perturbation"),
        arguments=of_run(Run.perturbation_arguments, "perturbation"),
    message:
        "Changes of the loss under perturbation {wildcards.perturbation} of {wildcards.run} by {resources.tasks} MPI ranks"
