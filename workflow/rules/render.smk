# Pictures and videos; they read stores and know no deep-learning framework.


# All figures of `render/registry.py`, a rule for those that are drawn together.
for drawing in registry.drawings():

    rule:
        name:
            drawing.rule
        input:
            of_run(drawing.inputs, drawing.key),
        output:
            drawing.files(RUN, drawing.wildcard, "pdf"),
            [reported(*one, drawing.thing) for one in zip(drawing.files(RUN, drawing.wildcard), drawing.kinds)],
        log:
            f"{LOGS}/figures/{drawing.log}.log",
        benchmark:
            f"{LOGS}/figures/{drawing.log}.benchmark.tsv"
        conda:
            "../../envs/render.yaml"
        resources:
            mem_mb=2000,
            runtime=growing(10),
        params:
            script=SCRIPTS / "figures.py",
            kinds=drawing.kinds,
            stores=of_run(drawing.arguments, drawing.key),
            choices=of_run(drawing.choices, drawing.key),
            prefix=of_run(drawing.prefix, drawing.key),
            title=of_run(drawing.title, drawing.key),
            thing=drawing.thing,
        message:
            "Figures of {params.thing} of {wildcards.run}: {params.kinds}"
        shell:
            "python {params.script:q} --kinds {params.kinds:q} --stores {params.stores:q}"
            " --choices {params.choices:q} --title {params.title:q} --prefix {params.prefix:q} 2>&1 | logged {log:q}"


rule video:
    input:
        trajectory=TRAJECTORY,
        landscape=f"{RUN}/landscape/{{plane}}.zarr",
        spectra=lambda wildcards: RUNS[wildcards.run].stores("spectra"),
    output:
        f"{RUN}/video/{{plane}}.mp4",
        reported(f"{RUN}/video/{{plane}}.html", "video", "plane {plane}"),
    log:
        f"{LOGS}/video/{{plane}}.log",
    benchmark:
        f"{LOGS}/video/{{plane}}.benchmark.tsv"
    conda:
        "../../envs/render.yaml"
    resources:
        mem_mb=2000,
        runtime=growing(60),
    params:
        script=SCRIPTS / "video.py",
        job="video",
        choices=of_run(Run.figure_choices),
        title=lambda wildcards: f"{wildcards.run}: plane {wildcards.plane}",
        spectra=lambda wildcards, input: ["--spectra", *input.spectra] if input.spectra else [],
        speed=of_run(Run.video_arguments),
        made=lambda wildcards, output: ["--output", output[0], "--player", output[1]],
    message:
        "Video of plane {wildcards.plane} of {wildcards.run}"
    shell:
        "python {params.script:q} --landscape {input.landscape:q} --trajectory {input.trajectory:q} {params.spectra:q}"
        " --choices {params.choices:q} --title {params.title:q}"
        " --label {wildcards.run:q}/{params.job:q}/{wildcards.plane:q}"
        " {params.speed:q} {params.made:q} 2>&1 | logged {log:q}"


use rule video as frames with:
    output:
        directory(f"{RUN}/video/{{plane}}_frames"),
    log:
        f"{LOGS}/frames/{{plane}}.log",
    benchmark:
        f"{LOGS}/frames/{{plane}}.benchmark.tsv"
    params:
        job="frames",
        speed=[],
        made=lambda wildcards, output: ["--frames", output[0]],
    message:
        "Frames of plane {wildcards.plane} of {wildcards.run} as PNG"


rule report:
    input:
        lambda wildcards: targets.reported(RUNS[wildcards.run]),
    output:
        f"{RUN}/report.html",
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{LOGS}/report.benchmark.tsv"
    conda:
        "../../envs/render.yaml"
    resources:
        mem_mb=2000,
        runtime=growing(10),
    params:
        script=SCRIPTS / "report.py",
        settings=lambda wildcards: json.dumps(RUNS[wildcards.run].config_alone()),  # in the order of the config
    message:
        "Report of {wildcards.run}"
    shell:
        "python {params.script:q} --run {wildcards.run:q} --settings {params.settings:q} --output {output:q}"
        " 2>&1 | logged {log:q}"
