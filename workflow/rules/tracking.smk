# Hessian eigenvectors followed along training, by MPI ranks that share one queue.


rule tracking:
    input:
        dataset_ready,
        trajectory=f"{RESULTS}/{{run}}/trajectory.zarr",
    output:
        directory(f"{RESULTS}/{{run}}/tracking.zarr"),
    log:
        f"{RESULTS}/{{run}}/logs/tracking.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/tracking.benchmark.tsv"
    conda:
        environment
    threads: MPI["ranks"] * MPI["threads_per_rank"]
    resources:
        mpi="mpiexec",
        tasks=MPI["ranks"],
        cpus_per_task=MPI["threads_per_rank"],
        mem_mb=8000,
        runtime=growing(480),
    params:
        script=SCRIPTS / "tracking.py",
        run_dir=run_dir,
        spec=lambda wildcards: as_json(tracking_spec(wildcards)),
        device=lambda wildcards: RUNS[wildcards.run]["device"],
        timing=f"{RESULTS}/{{run}}/logs/tracking.timing.json",
        queue=MPI["queue"],
        data_ranks=MPI["data_ranks"],
        save_minutes=MPI["save_minutes"],
        fresh=fresh(),
    message:
        "Hessian eigenvectors along training of {wildcards.run} by {resources.tasks} MPI ranks"
    shell:
        "export SRUN_CPUS_PER_TASK={resources.cpus_per_task}; "
        "{resources.mpi} -n {resources.tasks} python {params.script:q} --output {output:q}"
        " --run-dir {params.run_dir:q} --label {wildcards.run:q}/tracking --spec {params.spec:q}"
        " --trajectory {input.trajectory:q} --timing {params.timing:q}"
        " --ranks {resources.tasks} --threads {resources.cpus_per_task} --device {params.device:q}"
        " --queue {params.queue:q} --data-ranks {params.data_ranks:q}"
        " --save-minutes {params.save_minutes:q} {params.fresh:q} 2>&1 | logged {log:q}"
