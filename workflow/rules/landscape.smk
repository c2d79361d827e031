# The loss on planes and its curvature there, by MPI ranks that share one queue.


rule landscape:
    input:
        dataset_ready,
        trajectory=f"{RESULTS}/{{run}}/trajectory.zarr",
        others=lambda wildcards: trajectories(plane_paths(wildcards)),
        x=lambda wildcards: axis_store(wildcards, "x"),
        y=lambda wildcards: axis_store(wildcards, "y"),
    output:
        directory(f"{RESULTS}/{{run}}/landscape/{{plane}}.zarr"),
    log:
        f"{RESULTS}/{{run}}/logs/landscape/{{plane}}.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/landscape/{{plane}}.benchmark.tsv"
    conda:
        environment
    threads: MPI["ranks"] * MPI["threads_per_rank"]
    resources:
        mpi="mpiexec",
        tasks=MPI["ranks"],
        cpus_per_task=MPI["threads_per_rank"],
        mem_mb=8000,
        runtime=growing(240),
    params:
        script=SCRIPTS / "landscape.py",
        job="landscape",
        run_dir=run_dir,
        spec=lambda wildcards: as_json(plane_spec(wildcards)),
        others=lambda wildcards: other_arguments(plane_paths(wildcards)),
        x=lambda wildcards: axis_argument(wildcards, "x"),
        y=lambda wildcards: axis_argument(wildcards, "y"),
        device=lambda wildcards: RUNS[wildcards.run]["device"],
        timing=f"{RESULTS}/{{run}}/logs/landscape/{{plane}}.timing.json",
        queue=MPI["queue"],
        fresh=fresh(),
    message:
        "Loss on plane {wildcards.plane} of {wildcards.run} by {resources.tasks} MPI ranks"
    shell:
        "export SRUN_CPUS_PER_TASK={resources.cpus_per_task}; "
        "{resources.mpi} -n {resources.tasks} python {params.script:q} --output {output:q}"
        " --run-dir {params.run_dir:q} --label {wildcards.run:q}/{params.job:q}/{wildcards.plane:q} --spec {params.spec:q}"
        " --trajectory {input.trajectory:q} {params.others:q} --x {params.x:q} --y {params.y:q} --timing {params.timing:q}"
        " --ranks {resources.tasks} --threads {resources.cpus_per_task} --device {params.device:q}"
        " --queue {params.queue:q} {params.fresh:q} 2>&1 | logged {log:q}"


use rule landscape as curvature with:
    output:
        directory(f"{RESULTS}/{{run}}/curvature/{{plane}}.zarr"),
    log:
        f"{RESULTS}/{{run}}/logs/curvature/{{plane}}.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/curvature/{{plane}}.benchmark.tsv"
    params:
        script=SCRIPTS / "curvature.py",
        job="curvature",
        spec=lambda wildcards: as_json(curvature_spec(wildcards)),
        timing=f"{RESULTS}/{{run}}/logs/curvature/{{plane}}.timing.json",
    message:
        "Extreme Hessian eigenvalues on plane {wildcards.plane} of {wildcards.run} by {resources.tasks} MPI ranks"
