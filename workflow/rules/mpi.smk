# What jobs share whose MPI ranks take units of work from one queue.


def ranks(memory, minutes):
    """Return the resources of such a job: MB, and minutes that grow when it is tried again."""
    size = {"tasks": MPI["ranks"], "cpus_per_task": MPI["threads_per_rank"]}
    return {"mpi": "mpiexec", **size, "mem_mb": memory, "runtime": growing(minutes)}


# Rules that use this one say what they read and make, and in ``arguments`` what their script is told besides.
rule mpi:
    conda:
        environment
    threads: MPI["ranks"] * MPI["threads_per_rank"]
    params:
        script="",
        run_dir=RUN,
        label=lambda wildcards, output: os.path.relpath(output[0], RESULTS).removesuffix(".zarr"),
        spec="",
        arguments=[],
        timing="",
        fresh=fresh(),
    shell:
        "export SRUN_CPUS_PER_TASK={resources.cpus_per_task}; "
        "{resources.mpi} -n {resources.tasks} python {params.script:q} --output {output:q}"
        " --run-dir {params.run_dir:q} --label {params.label:q} --spec {params.spec:q}"
        " --trajectory {input.trajectory:q} {params.arguments:q} --timing {params.timing:q}"
        " --ranks {resources.tasks} --threads {resources.cpus_per_task} {params.fresh:q} 2>&1 | logged {log:q}"
