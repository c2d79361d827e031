# Hessian spectra along training and on lines between checkpoints, by MPI ranks that share one queue.


rule spectra:
    input:
        dataset_ready,
        trajectory=f"{RESULTS}/{{run}}/trajectory.zarr",
        others=lambda wildcards: trajectories(line_end(wildcards)),
    output:
        directory(f"{RESULTS}/{{run}}/{{spectra}}.zarr"),
    log:
        f"{RESULTS}/{{run}}/logs/{{spectra}}.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/{{spectra}}.benchmark.tsv"
    wildcard_constraints:
        spectra=r"spectra(|(_between)?/[A-Za-z0-9][A-Za-z0-9_-]*)",
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
        script=SCRIPTS / "spectra.py",
        run_dir=run_dir,
        spec=lambda wildcards: as_json(spectra_spec(wildcards)),
        others=lambda wildcards: other_arguments(line_end(wildcards)),
        device=lambda wildcards: RUNS[wildcards.run]["device"],
        timing=f"{RESULTS}/{{run}}/logs/{{spectra}}.timing.json",
        queue=MPI["queue"],
        data_ranks=MPI["data_ranks"],
        save_minutes=MPI["save_minutes"],
        fresh=fresh(),
    message:
        "Hessian {wildcards.spectra} of {wildcards.run} by {resources.tasks} MPI ranks"
    shell:
        "export SRUN_CPUS_PER_TASK={resources.cpus_per_task}; "
        "{resources.mpi} -n {resources.tasks} python {params.script:q} --output {output:q}"
        " --run-dir {params.run_dir:q} --label {wildcards.run:q}/{wildcards.spectra:q} --spec {params.spec:q}"
        " --trajectory {input.trajectory:q} {params.others:q} --timing {params.timing:q}"
        " --ranks {resources.tasks} --threads {resources.cpus_per_task} --device {params.device:q}"
        " --queue {params.queue:q} --data-ranks {params.data_ranks:q}"
        " --save-minutes {params.save_minutes:q} {params.fresh:q} 2>&1 | logged {log:q}"
