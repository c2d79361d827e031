# The loss on planes and its curvature there, by MPI ranks that share one queue.


use rule mpi as landscape with:
    input:
        of_run(Run.data_ready),
        trajectory=TRAJECTORY,
        others=trajectories_of(Run.plane_others, "plane"),
        axes=of_run(Run.plane_axes, "plane"),
    output:
        directory(f"{RUN}/landscape/{{plane}}.zarr"),
    log:
        f"{LOGS}/landscape/{{plane}}.log",
    benchmark:
        f"{LOGS}/landscape/{{plane}}.benchmark.tsv"
    resources:
        **ranks(8000, 240),
    params:
        script=SCRIPTS / "landscape.py",
        spec=of_run(Run.plane_spec, "plane"),
        arguments=of_run(Run.plane_arguments, "plane"),
        timing=f"{LOGS}/landscape/{{plane}}.timing.json",
    message:
        "Loss on plane {wildcards.plane} of {wildcards.run} by {resources.tasks} MPI ranks"


use rule landscape as curvature with:
    output:
        directory(f"{RUN}/curvature/{{plane}}.zarr"),
    log:
        f"{LOGS}/curvature/{{plane}}.log",
    benchmark:
        f"{LOGS}/curvature/{{plane}}.benchmark.tsv"
    params:
        script=SCRIPTS / "curvature.py",
        spec=of_run(Run.curvature_spec, "plane"),
        timing=f"{LOGS}/curvature/{{plane}}.timing.json",
    message:
        "Extreme Hessian eigenvalues on plane {wildcards.plane} of {wildcards.run} by {resources.tasks} MPI ranks"
