# Directions in parameter space, normalised as a recorded step.


rule directions:
    input:
        of_run(Run.directions_file, "directions"),
        trajectory=TRAJECTORY,
        others=trajectories_of("directions", "directions"),
    output:
        directory(f"{RUN}/directions/{{directions}}.zarr"),
    log:
        f"{LOGS}/directions/{{directions}}.log",
    benchmark:
        f"{LOGS}/directions/{{directions}}.benchmark.tsv"
    wildcard_constraints:
        directions=sets_of_kind(other_than=("pca", "eigen", "gradient", "mined", "connection")),
    conda:
        environment
    threads: of_run(Run.directions_threads, "directions")
    resources:
        mem_mb=4000,
        runtime=growing(30),
    params:
        script=SCRIPTS / "directions.py",
        run_dir=run_dir,
        spec=of_run(Run.directions_spec, "directions"),
        arguments=of_run(Run.directions_arguments, "directions"),
        fresh=fresh(),
    message:
        "Directions {wildcards.directions} of {wildcards.run}"
    shell:
        "python {params.script:q} --output {output:q} --run-dir {params.run_dir:q}"
        " --label {wildcards.run:q}/directions/{wildcards.directions:q} --spec {params.spec:q}"
        " --trajectory {input.trajectory:q} {params.arguments:q} {params.fresh:q} 2>&1 | logged {log:q}"


use rule directions as eigen with:
    input:
        of_run(Run.data_ready),
        trajectory=TRAJECTORY,
    wildcard_constraints:
        directions=sets_of_kind("eigen"),
    resources:
        mem_mb=8000,
        runtime=growing(240),
    params:
        script=SCRIPTS / "derivatives.py",
        spec=of_run(Run.derivatives_spec, "directions"),
        arguments=of_run(Run.derivatives_arguments, "directions"),
    message:
        "Hessian eigenvectors {wildcards.directions} of {wildcards.run}"


use rule eigen as gradient with:
    wildcard_constraints:
        directions=sets_of_kind("gradient"),
    message:
        "Negative gradients {wildcards.directions} of {wildcards.run}"


use rule landscape as pca with:
    input:
        trajectory=TRAJECTORY,
    output:
        directory(f"{RUN}/directions/{{directions}}.zarr"),
    log:
        f"{LOGS}/directions/{{directions}}.log",
    benchmark:
        f"{LOGS}/directions/{{directions}}.benchmark.tsv"
    wildcard_constraints:
        directions=sets_of_kind("pca"),
    conda:
        "../../envs/torch.yaml"
    resources:
        **ranks(4000, 30),
    params:
        script=SCRIPTS / "pca.py",
        spec=of_run(Run.directions_spec, "directions"),
        arguments=[],
    message:
        "Principal components {wildcards.directions} of {wildcards.run} by {resources.tasks} MPI ranks"


use rule landscape as mined with:
    input:
        of_run(Run.data_ready),
        trajectory=TRAJECTORY,
        others=trajectories_of("directions", "directions"),
    output:
        directory(f"{RUN}/directions/{{directions}}.zarr"),
    log:
        f"{LOGS}/directions/{{directions}}.log",
    benchmark:
        f"{LOGS}/directions/{{directions}}.benchmark.tsv"
    wildcard_constraints:
        directions=sets_of_kind("mined", "connection"),
    resources:
        **ranks(8000, 240),
    params:
        script=SCRIPTS / "mined.py",
        spec=of_run(Run.derivatives_spec, "directions"),
        arguments=of_run(Run.mined_arguments, "directions"),
    message:
        "Mined directions {wildcards.directions} of {wildcards.run} by {resources.tasks} MPI ranks"
