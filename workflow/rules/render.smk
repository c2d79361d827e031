# Pictures and videos; they read stores and know no deep-learning framework.


rule figures:
    input:
        trajectory=f"{RESULTS}/{{run}}/trajectory.zarr",
        landscape=f"{RESULTS}/{{run}}/landscape/{{plane}}.zarr",
    output:
        figure_files("{run}", "{plane}"),
    log:
        f"{RESULTS}/{{run}}/logs/figures/{{plane}}.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/figures/{{plane}}.benchmark.tsv"
    conda:
        "../../envs/render.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        script=SCRIPTS / "figures.py",
        choices=lambda wildcards: as_json(RUNS[wildcards.run]["figures"]),
        prefix=lambda wildcards: f"{RESULTS}/{wildcards.run}/figures/{wildcards.plane}",
        title=title,
    message:
        "Figures of plane {wildcards.plane} of {wildcards.run}"
    shell:
        "python {params.script} --landscape {input.landscape} --trajectory {input.trajectory}"
        " --choices {params.choices:q} --title {params.title:q} --prefix {params.prefix} 2>&1 | tee {log}"


rule video:
    input:
        trajectory=f"{RESULTS}/{{run}}/trajectory.zarr",
        landscape=f"{RESULTS}/{{run}}/landscape/{{plane}}.zarr",
        spectra=spectra_store,
    output:
        f"{RESULTS}/{{run}}/video/{{plane}}.mp4",
    log:
        f"{RESULTS}/{{run}}/logs/video/{{plane}}.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/video/{{plane}}.benchmark.tsv"
    conda:
        "../../envs/render.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        script=SCRIPTS / "video.py",
        choices=lambda wildcards: as_json(RUNS[wildcards.run]["figures"]),
        fps=lambda wildcards: RUNS[wildcards.run]["video"]["fps"],
        hold=lambda wildcards: RUNS[wildcards.run]["video"]["hold_seconds"],
        title=title,
        spectra=lambda wildcards, input: f"--spectra {input.spectra}" if input.spectra else "",
    message:
        "Video of plane {wildcards.plane} of {wildcards.run}"
    shell:
        "python {params.script} --landscape {input.landscape} --trajectory {input.trajectory}"
        " {params.spectra}"
        " --choices {params.choices:q} --title {params.title:q} --label {wildcards.run}/video/{wildcards.plane}"
        " --fps {params.fps} --hold-seconds {params.hold} --output {output} 2>&1 | tee {log}"


rule frames:
    input:
        trajectory=f"{RESULTS}/{{run}}/trajectory.zarr",
        landscape=f"{RESULTS}/{{run}}/landscape/{{plane}}.zarr",
        spectra=spectra_store,
    output:
        directory(f"{RESULTS}/{{run}}/video/{{plane}}_frames"),
    log:
        f"{RESULTS}/{{run}}/logs/frames/{{plane}}.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/frames/{{plane}}.benchmark.tsv"
    conda:
        "../../envs/render.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        script=SCRIPTS / "video.py",
        choices=lambda wildcards: as_json(RUNS[wildcards.run]["figures"]),
        title=title,
        spectra=lambda wildcards, input: f"--spectra {input.spectra}" if input.spectra else "",
    message:
        "Frames of plane {wildcards.plane} of {wildcards.run} as PNG"
    shell:
        "python {params.script} --landscape {input.landscape} --trajectory {input.trajectory}"
        " {params.spectra}"
        " --choices {params.choices:q} --title {params.title:q} --label {wildcards.run}/frames/{wildcards.plane}"
        " --frames {output} 2>&1 | tee {log}"
