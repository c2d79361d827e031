# The loss on planes and its curvature there, by MPI ranks that share one queue.


# The template of all jobs whose MPI ranks share one queue: rules that use it say what they read and make, and in
# `arguments` what their script is told besides.
rule landscape:
    input:
        of_run(Run.data_ready),
        trajectory=TRAJECTORY,
        others=trajectories_of("planes", "plane"),
        axes=direction_stores_of("planes", "plane"),
    output:
        directory(f"{RUN}/landscape/{{plane}}.zarr"),
    log:
        f"{LOGS}/landscape/{{plane}}.log",
    benchmark:
        f"{LOGS}/landscape/{{plane}}.benchmark.tsv"
    conda:
        environment
    threads: CONFIG.mpi.ranks * CONFIG.mpi.threads_per_rank
    resources:
        **ranks(8000, 240),
    params:
        script=SCRIPTS / "landscape.py",
        spec=of_run(Run.plane_spec, "plane"),
        arguments=of_run(Run.plane_arguments, "plane"),
        run_dir=run_dir,
        label=lambda wildcards, output: f"{wildcards.run}/{job_of(wildcards, output)}",
        timing=lambda wildcards, output: f"{run_dir(wildcards)}/logs/{job_of(wildcards, output)}.timing.json",
        fresh=fresh(),
    message:
        "Loss on plane {wildcards.plane} of {wildcards.run} by {resources.tasks} MPI ranks"
    shell:
        "export SRUN_CPUS_PER_TASK={resources.cpus_per_task}; "
        "{resources.mpi} -n {resources.tasks} python {params.script:q} --output {output:q}"
        " --run-dir {params.run_dir:q} --label {params.label:q} --spec {params.spec:q}"
        " --trajectory {input.trajectory:q} {params.arguments:q} --timing {params.timing:q}"
        " --ranks {resources.tasks} --threads {resources.cpus_per_task} {params.fresh:q} 2>&1 | logged {log:q}"


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
    message:
        "Extreme Hessian eigenvalues on plane {wildcards.plane} of {wildcards.run} by {resources.tasks} MPI ranks"
