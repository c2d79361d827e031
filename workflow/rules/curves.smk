# The loss on straight lines, by MPI ranks that share one queue.


rule curves:
    input:
        dataset_ready,
        curve_stores,
        trajectory=f"{RESULTS}/{{run}}/trajectory.zarr",
        others=lambda wildcards: trajectories(curve_end(wildcards)),
    output:
        directory(f"{RESULTS}/{{run}}/curves/{{curve}}.zarr"),
    log:
        f"{RESULTS}/{{run}}/logs/curves/{{curve}}.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/curves/{{curve}}.benchmark.tsv"
    conda:
        environment
    threads: MPI["ranks"] * MPI["threads_per_rank"]
    resources:
        mpi="mpiexec",
        tasks=MPI["ranks"],
        cpus_per_task=MPI["threads_per_rank"],
        mem_mb=8000,
        runtime=growing(60),
    params:
        script=SCRIPTS / "curves.py",
        run_dir=run_dir,
        spec=lambda wildcards: as_json(curve_spec(wildcards)),
        x=lambda wildcards: curve_arguments(wildcards),
        others=lambda wildcards: other_arguments(curve_end(wildcards)),
        device=lambda wildcards: RUNS[wildcards.run]["device"],
        timing=f"{RESULTS}/{{run}}/logs/curves/{{curve}}.timing.json",
        queue=MPI["queue"],
        fresh=fresh(),
    message:
        "Loss on curve {wildcards.curve} of {wildcards.run} by {resources.tasks} MPI ranks"
    shell:
        "export SRUN_CPUS_PER_TASK={resources.cpus_per_task}; "
        "{resources.mpi} -n {resources.tasks} python {params.script:q} --output {output:q}"
        " --run-dir {params.run_dir:q} --label {wildcards.run:q}/curves/{wildcards.curve:q} --spec {params.spec:q}"
        " --trajectory {input.trajectory:q} {params.x:q} {params.others:q} --timing {params.timing:q}"
        " --ranks {resources.tasks} --threads {resources.cpus_per_task} --device {params.device:q}"
        " --queue {params.queue:q} {params.fresh:q} 2>&1 | logged {log:q}"
