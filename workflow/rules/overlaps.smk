# Cosines of directions; no loss is evaluated.


rule overlaps:
    input:
        direction_stores_of("overlaps", "overlap"),
    output:
        directory(f"{RUN}/overlaps/{{overlap}}.zarr"),
    log:
        f"{LOGS}/overlaps/{{overlap}}.log",
    benchmark:
        f"{LOGS}/overlaps/{{overlap}}.benchmark.tsv"
    conda:
        "../../envs/render.yaml"
    resources:
        mem_mb=4000,
        runtime=growing(30),
    params:
        script=SCRIPTS / "overlaps.py",
        run_dir=run_dir,
        spec=of_run(Run.overlap_spec, "overlap"),
        arguments=of_run(Run.overlap_arguments, "overlap"),
        fresh=fresh(),
    message:
        "Overlaps {wildcards.overlap} of directions of {wildcards.run}"
    shell:
        "python {params.script:q} --output {output:q} --run-dir {params.run_dir:q}"
        " --label {wildcards.run:q}/overlaps/{wildcards.overlap:q} --spec {params.spec:q} {params.arguments:q}"
        " {params.fresh:q} 2>&1 | logged {log:q}"
