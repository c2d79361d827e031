# Pictures and videos; they read stores and know no deep-learning framework.


rule figures:
    input:
        trajectory=f"{RESULTS}/{{run}}/trajectory.zarr",
        landscape=f"{RESULTS}/{{run}}/landscape/{{plane}}.zarr",
    output:
        figure_files("{plane}", PLANE_FIGURES, "pdf"),
        reported_figures("{plane}", PLANE_FIGURES, "plane {plane}"),
    log:
        f"{RESULTS}/{{run}}/logs/figures/planes/{{plane}}.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/figures/planes/{{plane}}.benchmark.tsv"
    conda:
        "../../envs/render.yaml"
    resources:
        mem_mb=2000,
        runtime=growing(10),
    params:
        script=SCRIPTS / "figures.py",
        choices=lambda wildcards: as_json(RUNS[wildcards.run]["figures"]),
        prefix=lambda wildcards: f"{RESULTS}/{wildcards.run}/figures/{wildcards.plane}",
        title=title,
    message:
        "Figures of plane {wildcards.plane} of {wildcards.run}"
    shell:
        "python {params.script:q} --landscape {input.landscape:q} --trajectory {input.trajectory:q}"
        " --choices {params.choices:q} --title {params.title:q} --prefix {params.prefix:q} 2>&1 | logged {log:q}"


rule metrics_figure:
    input:
        landscape=f"{RESULTS}/{{run}}/landscape/{{plane}}.zarr",
    output:
        figure_files("{plane}", METRIC_FIGURES, "pdf"),
        reported_figures("{plane}", METRIC_FIGURES, "plane {plane}"),
    log:
        f"{RESULTS}/{{run}}/logs/figures/metrics/{{plane}}.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/figures/metrics/{{plane}}.benchmark.tsv"
    conda:
        "../../envs/render.yaml"
    resources:
        mem_mb=2000,
        runtime=growing(10),
    params:
        script=SCRIPTS / "figures.py",
        metrics=lambda wildcards: list(RUNS[wildcards.run]["metrics"]),
        choices=lambda wildcards: as_json(RUNS[wildcards.run]["figures"]),
        prefix=lambda wildcards: f"{RESULTS}/{wildcards.run}/figures/{wildcards.plane}",
        title=title,
    message:
        "Figure of the metrics on plane {wildcards.plane} of {wildcards.run}"
    shell:
        "python {params.script:q} --landscape {input.landscape:q} --metrics {params.metrics:q}"
        " --choices {params.choices:q} --title {params.title:q} --prefix {params.prefix:q} 2>&1 | logged {log:q}"


rule curvature_figure:
    input:
        landscape=f"{RESULTS}/{{run}}/landscape/{{plane}}.zarr",
        curvature=f"{RESULTS}/{{run}}/curvature/{{plane}}.zarr",
    output:
        figure_files("{plane}", CURVATURE_FIGURES, "pdf"),
        reported_figures("{plane}", CURVATURE_FIGURES, "plane {plane}"),
    log:
        f"{RESULTS}/{{run}}/logs/figures/curvature/{{plane}}.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/figures/curvature/{{plane}}.benchmark.tsv"
    conda:
        "../../envs/render.yaml"
    resources:
        mem_mb=2000,
        runtime=growing(10),
    params:
        script=SCRIPTS / "figures.py",
        choices=lambda wildcards: as_json(RUNS[wildcards.run]["figures"]),
        prefix=lambda wildcards: f"{RESULTS}/{wildcards.run}/figures/{wildcards.plane}",
        title=lambda wildcards: f"{wildcards.run}: curvature on plane {wildcards.plane}",
    message:
        "Figure of the curvature on plane {wildcards.plane} of {wildcards.run}"
    shell:
        "python {params.script:q} --landscape {input.landscape:q} --curvature {input.curvature:q}"
        " --choices {params.choices:q} --title {params.title:q} --prefix {params.prefix:q} 2>&1 | logged {log:q}"


rule curve_figure:
    input:
        curves=f"{RESULTS}/{{run}}/curves/{{curve}}.zarr",
    output:
        figure_files("{curve}", CURVE_FIGURES, "pdf"),
        reported_figures("{curve}", CURVE_FIGURES, "curve {curve}"),
    log:
        f"{RESULTS}/{{run}}/logs/figures/curves/{{curve}}.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/figures/curves/{{curve}}.benchmark.tsv"
    conda:
        "../../envs/render.yaml"
    resources:
        mem_mb=2000,
        runtime=growing(10),
    params:
        script=SCRIPTS / "figures.py",
        choices=lambda wildcards: as_json(RUNS[wildcards.run]["figures"]),
        view=lambda wildcards: as_json(curve_settings(wildcards)["view"]),
        prefix=lambda wildcards: f"{RESULTS}/{wildcards.run}/figures/{wildcards.curve}",
        title=lambda wildcards: f"{wildcards.run}: curve {wildcards.curve}",
    message:
        "Figure of curve {wildcards.curve} of {wildcards.run}"
    shell:
        "python {params.script:q} --curves {input.curves:q} --view {params.view:q}"
        " --choices {params.choices:q} --title {params.title:q} --prefix {params.prefix:q} 2>&1 | logged {log:q}"


rule spectra_figures:
    input:
        spectra=f"{RESULTS}/{{run}}/spectra.zarr",
    output:
        figure_files("spectra", SPECTRA_FIGURES, "pdf"),
        reported_figures("spectra", SPECTRA_FIGURES, "spectra"),
    log:
        f"{RESULTS}/{{run}}/logs/figures/spectra.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/figures/spectra.benchmark.tsv"
    conda:
        "../../envs/render.yaml"
    resources:
        mem_mb=2000,
        runtime=growing(10),
    params:
        script=SCRIPTS / "figures.py",
        choices=lambda wildcards: as_json(RUNS[wildcards.run]["figures"]),
        prefix=lambda wildcards: f"{RESULTS}/{wildcards.run}/figures/spectra",
        title=lambda wildcards: f"{wildcards.run}: Hessian spectra",
    message:
        "Figures of the spectra of {wildcards.run}"
    shell:
        "python {params.script:q} --spectra {input.spectra:q}"
        " --choices {params.choices:q} --title {params.title:q} --prefix {params.prefix:q} 2>&1 | logged {log:q}"


rule variants_figure:
    input:
        spectra=f"{RESULTS}/{{run}}/spectra.zarr",
        variants=lambda wildcards: variant_stores(wildcards.run),
    output:
        figure_files("spectra", ["variants"], "pdf"),
        reported_figures("spectra", ["variants"], "spectra"),
    log:
        f"{RESULTS}/{{run}}/logs/figures/variants.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/figures/variants.benchmark.tsv"
    conda:
        "../../envs/render.yaml"
    resources:
        mem_mb=2000,
        runtime=growing(10),
    params:
        script=SCRIPTS / "figures.py",
        choices=lambda wildcards: as_json(RUNS[wildcards.run]["figures"]),
        prefix=lambda wildcards: f"{RESULTS}/{wildcards.run}/figures/spectra",
        title=lambda wildcards: f"{wildcards.run}: spectra of several matrices",
    message:
        "Figure that compares the spectra of {wildcards.run}"
    shell:
        "python {params.script:q} --spectra {input.spectra:q} --variants {input.variants:q}"
        " --choices {params.choices:q} --title {params.title:q} --prefix {params.prefix:q} 2>&1 | logged {log:q}"


rule line_figure:
    input:
        spectra=f"{RESULTS}/{{run}}/spectra_between/{{line}}.zarr",
    output:
        figure_files("{line}", LINE_FIGURES, "pdf"),
        reported_figures("{line}", LINE_FIGURES, "line {line}"),
    log:
        f"{RESULTS}/{{run}}/logs/figures/between/{{line}}.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/figures/between/{{line}}.benchmark.tsv"
    conda:
        "../../envs/render.yaml"
    resources:
        mem_mb=2000,
        runtime=growing(10),
    params:
        script=SCRIPTS / "figures.py",
        choices=lambda wildcards: as_json(RUNS[wildcards.run]["figures"]),
        prefix=lambda wildcards: f"{RESULTS}/{wildcards.run}/figures/{wildcards.line}",
        title=lambda wildcards: f"{wildcards.run}: Hessian spectra on line {wildcards.line}",
    message:
        "Figure of the spectra of {wildcards.run} on line {wildcards.line}"
    shell:
        "python {params.script:q} --line {input.spectra:q}"
        " --choices {params.choices:q} --title {params.title:q} --prefix {params.prefix:q} 2>&1 | logged {log:q}"


rule tracking_figure:
    input:
        tracking=f"{RESULTS}/{{run}}/tracking.zarr",
    output:
        figure_files("spectra", ["tracking"], "pdf"),
        reported_figures("spectra", ["tracking"], "tracking"),
    log:
        f"{RESULTS}/{{run}}/logs/figures/tracking.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/figures/tracking.benchmark.tsv"
    conda:
        "../../envs/render.yaml"
    resources:
        mem_mb=2000,
        runtime=growing(10),
    params:
        script=SCRIPTS / "figures.py",
        choices=lambda wildcards: as_json(RUNS[wildcards.run]["figures"]),
        prefix=lambda wildcards: f"{RESULTS}/{wildcards.run}/figures/spectra",
        title=lambda wildcards: f"{wildcards.run}: Hessian eigenvectors along training",
    message:
        "Figure of the eigenvectors of {wildcards.run} along training"
    shell:
        "python {params.script:q} --tracking {input.tracking:q}"
        " --choices {params.choices:q} --title {params.title:q} --prefix {params.prefix:q} 2>&1 | logged {log:q}"


rule null_figure:
    input:
        pca=f"{RESULTS}/{{run}}/directions/{{directions}}.zarr",
    output:
        figure_files("{directions}", NULL_FIGURES, "pdf"),
        reported_figures("{directions}", NULL_FIGURES, "directions {directions}"),
    log:
        f"{RESULTS}/{{run}}/logs/figures/null/{{directions}}.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/figures/null/{{directions}}.benchmark.tsv"
    wildcard_constraints:
        directions=sets_of_kind("pca"),
    conda:
        "../../envs/render.yaml"
    resources:
        mem_mb=2000,
        runtime=growing(10),
    params:
        script=SCRIPTS / "figures.py",
        choices=lambda wildcards: as_json(RUNS[wildcards.run]["figures"]),
        prefix=lambda wildcards: f"{RESULTS}/{wildcards.run}/figures/{wildcards.directions}",
        title=lambda wildcards: f"{wildcards.run}: directions {wildcards.directions}",
    message:
        "Figure of {wildcards.directions} of {wildcards.run} beside a random walk"
    shell:
        "python {params.script:q} --pca {input.pca:q}"
        " --choices {params.choices:q} --title {params.title:q} --prefix {params.prefix:q} 2>&1 | logged {log:q}"


rule video:
    input:
        trajectory=f"{RESULTS}/{{run}}/trajectory.zarr",
        landscape=f"{RESULTS}/{{run}}/landscape/{{plane}}.zarr",
        spectra=spectra_store,
    output:
        video=f"{RESULTS}/{{run}}/video/{{plane}}.mp4",
        player=report(f"{RESULTS}/{{run}}/video/{{plane}}.html", **report_entry("video", "plane {plane}")),
    log:
        f"{RESULTS}/{{run}}/logs/video/{{plane}}.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/video/{{plane}}.benchmark.tsv"
    conda:
        "../../envs/render.yaml"
    resources:
        mem_mb=2000,
        runtime=growing(60),
    params:
        script=SCRIPTS / "video.py",
        choices=lambda wildcards: as_json(RUNS[wildcards.run]["figures"]),
        fps=lambda wildcards: RUNS[wildcards.run]["video"]["fps"],
        hold=lambda wildcards: RUNS[wildcards.run]["video"]["hold_seconds"],
        title=title,
        spectra=lambda wildcards, input: ["--spectra", input.spectra] if input.spectra else [],
    message:
        "Video of plane {wildcards.plane} of {wildcards.run}"
    shell:
        "python {params.script:q} --landscape {input.landscape:q} --trajectory {input.trajectory:q}"
        " {params.spectra:q}"
        " --choices {params.choices:q} --title {params.title:q} --label {wildcards.run:q}/video/{wildcards.plane:q}"
        " --fps {params.fps:q} --hold-seconds {params.hold:q} --output {output.video:q} --player {output.player:q} 2>&1 | logged {log:q}"


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
        runtime=growing(60),
    params:
        script=SCRIPTS / "video.py",
        choices=lambda wildcards: as_json(RUNS[wildcards.run]["figures"]),
        title=title,
        spectra=lambda wildcards, input: ["--spectra", input.spectra] if input.spectra else [],
    message:
        "Frames of plane {wildcards.plane} of {wildcards.run} as PNG"
    shell:
        "python {params.script:q} --landscape {input.landscape:q} --trajectory {input.trajectory:q}"
        " {params.spectra:q}"
        " --choices {params.choices:q} --title {params.title:q} --label {wildcards.run:q}/frames/{wildcards.plane:q}"
        " --frames {output:q} 2>&1 | logged {log:q}"


rule report:
    input:
        lambda wildcards: reported(wildcards.run),
    output:
        f"{RESULTS}/{{run}}/report.html",
    log:
        f"{RESULTS}/{{run}}/logs/report.log",
    benchmark:
        f"{RESULTS}/{{run}}/logs/report.benchmark.tsv"
    conda:
        "../../envs/render.yaml"
    resources:
        mem_mb=2000,
        runtime=growing(10),
    params:
        script=SCRIPTS / "report.py",
        run_dir=run_dir,
        settings=lambda wildcards: as_json(reported_settings(wildcards.run)),
        planes=lambda wildcards: list(RUNS[wildcards.run]["planes"]),
        directions=lambda wildcards: sets_in_use(wildcards.run),
        spectra=lambda wildcards: ["--spectra", *spectra_figures(wildcards.run)],
        lines=lambda wildcards: ["--lines", *RUNS[wildcards.run]["spectra_between"]],
        curves=lambda wildcards: ["--curves", *RUNS[wildcards.run]["curves"]],
        curvature=lambda wildcards: ["--curvature", *curved_planes(wildcards.run)],
        metrics=lambda wildcards: "--metrics" if metric_figures(wildcards.run) else "",
        tracking=lambda wildcards: "--tracking" if tracking_files(wildcards.run) else "",
        nulls=lambda wildcards: ["--nulls", *pca_sets(wildcards.run)],
    message:
        "Report of {wildcards.run}"
    shell:
        "python {params.script:q} --run {wildcards.run:q} --run-dir {params.run_dir:q} --settings {params.settings:q}"
        " --planes {params.planes:q} --directions {params.directions:q} {params.spectra:q} {params.lines:q}"
        " {params.curves:q} {params.curvature:q} {params.metrics:q} {params.tracking:q} {params.nulls:q} --output {output:q} 2>&1 | logged {log:q}"
