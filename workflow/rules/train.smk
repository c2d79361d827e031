# Trajectories: trained here, or read from existing checkpoints.


rule download:
    output:
        touch(f"{CONFIG['data_root']}/.{{dataset}}.ready"),
    log:
        f"{CONFIG['data_root']}/.{{dataset}}.log",
    wildcard_constraints:
        dataset="fashion-mnist|cifar10|cifar100",
    conda:
        "../../envs/torch.yaml"
    params:
        root=lambda wildcards: CONFIG["data_root"],
        script=SCRIPTS / "download.py",
    message:
        "Download {wildcards.dataset} into {params.root}"
    shell:
        "python {params.script} --dataset {wildcards.dataset} --root {params.root:q} 2>&1 | logged {log}"


rule weights:
    output:
        touch(f"{CONFIG['data_root']}/.{{network}}-{{weights}}.ready"),
    log:
        f"{CONFIG['data_root']}/.{{network}}-{{weights}}.log",
    wildcard_constraints:
        network="mobilenet-v2",
        weights="imagenet1k-v1|imagenet1k-v2",
    conda:
        "../../envs/torch.yaml"
    params:
        root=lambda wildcards: CONFIG["data_root"],
        script=SCRIPTS / "weights.py",
    message:
        "Download weights {wildcards.weights} of {wildcards.network} into {params.root}"
    shell:
        "python {params.script} --network {wildcards.network} --name {wildcards.weights} --root {params.root:q}"
        " 2>&1 | logged {log}"


rule train:
    input:
        dataset_ready,
        weights_ready,
    output:
        directory(f"{RESULTS}/{{run}}/trajectory.zarr"),
    log:
        f"{RESULTS}/{{run}}/logs/train.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/train.benchmark.tsv"
    wildcard_constraints:
        run="|".join(TRAINED) or "(?!)",
    conda:
        environment
    threads: lambda wildcards: RUNS[wildcards.run]["train"]["threads"]
    resources:
        mem_mb=4000,
        runtime=growing(60),
    params:
        script=SCRIPTS / "train.py",
        run_dir=run_dir,
        spec=lambda wildcards: as_json(training_spec(wildcards.run)),
        needs=lambda wildcards: as_json(product_needs(wildcards.run)),
        device=lambda wildcards: RUNS[wildcards.run]["device"],
        threads=lambda wildcards: RUNS[wildcards.run]["train"]["threads"],
        fresh=fresh(),
    message:
        "Train {wildcards.run} and record its trajectory"
    shell:
        "python {params.script} --output {output} --run-dir {params.run_dir} --label {wildcards.run}/train"
        " --spec {params.spec:q} --needs {params.needs:q} --device {params.device} --threads {params.threads}"
        " {params.fresh}"
        " 2>&1 | logged {log}"


rule checkpoints:
    input:
        files=lambda wildcards: CHECKPOINTS[wildcards.run],
    output:
        directory(f"{RESULTS}/{{run}}/trajectory.zarr"),
    log:
        f"{RESULTS}/{{run}}/logs/checkpoints.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/checkpoints.benchmark.tsv"
    wildcard_constraints:
        run="|".join(IMPORTED) or "(?!)",
    conda:
        environment
    resources:
        mem_mb=4000,
        runtime=growing(60),
    params:
        script=SCRIPTS / "import_checkpoints.py",
        run_dir=run_dir,
        spec=lambda wildcards: as_json(PROBLEMS[wildcards.run]),
        fresh=fresh(),
    message:
        "Read the checkpoints of {wildcards.run} into a trajectory"
    shell:
        "python {params.script} --output {output} --run-dir {params.run_dir} --label {wildcards.run}/checkpoints"
        " --spec {params.spec:q} --files {input.files:q} {params.fresh}"
        " 2>&1 | logged {log}"
