# Trajectories: trained here, or read from existing checkpoints.


rule download:
    output:
        touch(f"{DATA_ROOT}/.{{dataset}}.ready"),
    log:
        f"{DATA_ROOT}/.{{dataset}}.log",
    wildcard_constraints:
        dataset="fashion-mnist|cifar10|cifar100",
    localrule: True
    conda:
        "../../envs/torch.yaml"
    params:
        root=lambda wildcards: DATA_ROOT,
        script=SCRIPTS / "download.py",
    message:
        "Download {wildcards.dataset} into {params.root}"
    shell:
        "python {params.script:q} --dataset {wildcards.dataset:q} --root {params.root:q} 2>&1 | logged {log:q}"


rule weights:
    output:
        touch(f"{DATA_ROOT}/.{{network}}-{{weights}}.ready"),
    log:
        f"{DATA_ROOT}/.{{network}}-{{weights}}.log",
    wildcard_constraints:
        network="mobilenet-v2",
        weights="imagenet1k-v1|imagenet1k-v2",
    localrule: True
    conda:
        "../../envs/torch.yaml"
    params:
        root=lambda wildcards: DATA_ROOT,
        script=SCRIPTS / "weights.py",
    message:
        "Download weights {wildcards.weights} of {wildcards.network} into {params.root}"
    shell:
        "python {params.script:q} --network {wildcards.network:q} --name {wildcards.weights:q} --root {params.root:q}"
        " 2>&1 | logged {log:q}"


rule train:
    input:
        of_run(Run.data_ready),
        of_run(Run.weights_ready),
    output:
        directory(TRAJECTORY),
    log:
        f"{LOGS}/train.log",
    benchmark:
        f"{LOGS}/train.benchmark.tsv"
    wildcard_constraints:
        run=runs_that(are_trained=True),
    conda:
        environment
    threads: of_run(Run.train_threads)
    resources:
        mem_mb=4000,
        runtime=growing(60),
    params:
        script=SCRIPTS / "train.py",
        job="train",
        run_dir=run_dir,
        spec=of_run(Run.trajectory_spec),
        needs=needs,
        arguments=of_run(Run.train_arguments),
        fresh=fresh(),
    message:
        "Train {wildcards.run} and record its trajectory"
    shell:
        "python {params.script:q} --output {output:q} --run-dir {params.run_dir:q} --label {wildcards.run:q}/{params.job}"
        " --spec {params.spec:q} --needs {params.needs:q} {params.arguments:q} {params.fresh:q} 2>&1 | logged {log:q}"


use rule train as checkpoints with:
    input:
        lambda wildcards: RUNS[wildcards.run].checkpoints,
    log:
        f"{LOGS}/checkpoints.log",
    benchmark:
        f"{LOGS}/checkpoints.benchmark.tsv"
    wildcard_constraints:
        run=runs_that(are_trained=False),
    threads: 1
    resources:
        mem_mb=8000,
        runtime=growing(60),
    params:
        script=SCRIPTS / "import_checkpoints.py",
        job="checkpoints",
        arguments=lambda wildcards, input: ["--files", *input],
    message:
        "Read the checkpoints of {wildcards.run} into a trajectory"
