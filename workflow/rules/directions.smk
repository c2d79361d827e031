# Directions in parameter space, normalised as a recorded step.


rule directions:
    input:
        trajectory=f"{RESULTS}/{{run}}/trajectory.zarr",
        others=lambda wildcards: trajectories(other_runs(wildcards)),
        file=lambda wildcards: directions_spec(wildcards).get("path", []),
    output:
        directory(f"{RESULTS}/{{run}}/directions/{{directions}}.zarr"),
    log:
        f"{RESULTS}/{{run}}/logs/directions/{{directions}}.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/directions/{{directions}}.benchmark.tsv"
    wildcard_constraints:
        directions=sets_of_kind("random", "difference", "file"),
    conda:
        environment
    threads: lambda wildcards: directions_spec(wildcards)["threads"]
    resources:
        mem_mb=4000,
        runtime=growing(30),
    params:
        script=SCRIPTS / "directions.py",
        run_dir=run_dir,
        spec=lambda wildcards: as_json(directions_spec(wildcards)),
        others=lambda wildcards: other_arguments(other_runs(wildcards)),
        fresh=fresh(),
    message:
        "Directions {wildcards.directions} of {wildcards.run}"
    shell:
        "python {params.script:q} --output {output:q} --run-dir {params.run_dir:q}"
        " --label {wildcards.run:q}/directions/{wildcards.directions:q} --spec {params.spec:q}"
        " --trajectory {input.trajectory:q} {params.others:q} {params.fresh:q}"
        " 2>&1 | logged {log:q}"


rule pca:
    input:
        trajectory=f"{RESULTS}/{{run}}/trajectory.zarr",
    output:
        directory(f"{RESULTS}/{{run}}/directions/{{directions}}.zarr"),
    log:
        f"{RESULTS}/{{run}}/logs/directions/{{directions}}.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/directions/{{directions}}.benchmark.tsv"
    wildcard_constraints:
        directions=sets_of_kind("pca"),
    conda:
        "../../envs/torch.yaml"
    threads: MPI["ranks"] * MPI["threads_per_rank"]
    resources:
        mpi="mpiexec",
        tasks=MPI["ranks"],
        cpus_per_task=MPI["threads_per_rank"],
        mem_mb=4000,
        runtime=growing(30),
    params:
        script=SCRIPTS / "pca.py",
        run_dir=run_dir,
        spec=lambda wildcards: as_json(directions_spec(wildcards)),
        timing=f"{RESULTS}/{{run}}/logs/directions/{{directions}}.timing.json",
        fresh=fresh(),
    message:
        "Principal components {wildcards.directions} of {wildcards.run} by {resources.tasks} MPI ranks"
    shell:
        "export SRUN_CPUS_PER_TASK={resources.cpus_per_task}; "
        "{resources.mpi} -n {resources.tasks} python {params.script:q} --output {output:q}"
        " --run-dir {params.run_dir:q} --label {wildcards.run:q}/directions/{wildcards.directions:q}"
        " --spec {params.spec:q} --trajectory {input.trajectory:q} --timing {params.timing:q}"
        " --ranks {resources.tasks} --threads {resources.cpus_per_task} {params.fresh:q}"
        " 2>&1 | logged {log:q}"


rule eigen:
    input:
        dataset_ready,
        trajectory=f"{RESULTS}/{{run}}/trajectory.zarr",
    output:
        directory(f"{RESULTS}/{{run}}/directions/{{directions}}.zarr"),
    log:
        f"{RESULTS}/{{run}}/logs/directions/{{directions}}.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/directions/{{directions}}.benchmark.tsv"
    wildcard_constraints:
        directions=sets_of_kind("eigen"),
    conda:
        environment
    threads: lambda wildcards: directions_spec(wildcards)["threads"]
    resources:
        mem_mb=8000,
        runtime=growing(240),
    params:
        script=SCRIPTS / "derivatives.py",
        run_dir=run_dir,
        spec=lambda wildcards: as_json(derivatives_spec(wildcards)),
        device=lambda wildcards: RUNS[wildcards.run]["device"],
        threads=lambda wildcards: directions_spec(wildcards)["threads"],
        fresh=fresh(),
    message:
        "Hessian eigenvectors {wildcards.directions} of {wildcards.run}"
    shell:
        "python {params.script:q} --output {output:q} --run-dir {params.run_dir:q}"
        " --label {wildcards.run:q}/directions/{wildcards.directions:q} --spec {params.spec:q}"
        " --trajectory {input.trajectory:q} --device {params.device:q} --threads {params.threads:q} {params.fresh:q}"
        " 2>&1 | logged {log:q}"


use rule eigen as gradient with:
    wildcard_constraints:
        directions=sets_of_kind("gradient"),
    message:
        "Negative gradients {wildcards.directions} of {wildcards.run}"
