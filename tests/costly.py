"""Tests that repeat at length what cheaper ones show as well; they are marked `full` and left to `make test-rest`.

Each is named as pytest names it, below `tests/`; a name without brackets means all cases of a test.
"""

COSTLY = """
workflow/test_pretrained.py::test_training_begins_with_downloaded_weights
workflow/test_workflow.py::test_a_users_own_model_data_and_loss
workflow/test_workflow.py::test_what_was_deleted_is_made_again_and_all_else_stays
workflow/test_workflow.py::test_existing_checkpoints_become_a_trajectory
workflow/test_names.py::test_folders_of_any_name
workflow/test_readme.py::test_a_path_becomes_a_video
workflow/test_recorded.py::test_a_recorded_loop_becomes_planes_spectra_and_a_video
workflow/test_examples.py::test_examples_end_in_a_video_and_a_spectrum
workflow/test_kills.py::test_oracle_19_snakemake_goes_on_after_kills_of_ranks_jobs_and_itself
workflow/test_kills.py::test_oracle_14_stores_are_equal_bit_for_bit_on_any_number_of_ranks[4-2-static]
workflow/test_tensorflow.py::test_the_plan_of_runs_with_both_frameworks
numerics/test_parity.py::test_oracle_15_products[lenet-float64-hessian]
numerics/test_parity.py::test_oracle_15_products[resnet20-float64-hessian]
numerics/test_parity.py::test_oracle_15_products[resnet20-float64-ggn]
numerics/test_keras.py::test_too_little_memory_is_said_from_one_sample_or_one_chunk_and_nothing_is_trained[frozen]
numerics/test_keras.py::test_oracles_2_3_of_a_network_with_several_inputs[False]
numerics/test_keras_grid.py::test_oracle_2_networks_of_every_kind[conv2d grouped maxpool]
numerics/test_keras_grid.py::test_oracle_2_networks_of_every_kind[bidirectional gru]
numerics/test_keras_grid.py::test_oracle_2_networks_of_every_kind[gru backwards]
numerics/test_refinement.py::test_the_stated_error_holds_beside_steps_and_edges
numerics/test_refinement.py::test_what_lies_above_the_maximum_needs_no_accuracy
numerics/test_refinement.py::test_oracle_19_killed_in_every_round_and_resumed[in a round]
numerics/test_problem.py::test_ragged_batches_give_what_one_batch_gives[device0-1e-12-resnet20]
numerics/test_hessian.py::test_networks_of_the_zoo_are_traced[resnet20]
numerics/test_hessian.py::test_gauss_newton_and_residual_add_up_to_the_hessian[rebuild-float32]
numerics/test_hessian.py::test_gauss_newton_and_residual_add_up_to_the_hessian[retained-float32]
numerics/test_strategies.py::test_the_memory_at_peak_is_below_what_was_predicted[split-0.1-10]
numerics/test_strategies.py::test_the_memory_at_peak_is_below_what_was_predicted[retained-0.07-2]
numerics/test_several_inputs.py::test_the_next_token_is_the_loss_of_a_causal_language_model_of_hugging_face
numerics/test_keras.py::test_curves_and_tracking_of_keras_models
numerics/test_callbacks.py::test_lightning
numerics/test_callbacks.py::test_transformers_trainer
numerics/test_callbacks.py::test_accelerate
numerics/test_callbacks.py::test_lora_writes_the_adapters_alone
numerics/test_alignment.py::test_units_change_places_and_the_function_stays[resnet without shortcuts]
numerics/test_alignment.py::test_units_change_places_and_the_function_stays[resnet with projections]
numerics/test_alignment.py::test_an_order_that_was_mixed_up_is_found_again_bit_for_bit[resnet without shortcuts]
numerics/test_alignment.py::test_an_order_that_was_mixed_up_is_found_again_bit_for_bit[resnet with projections]
numerics/test_recorder.py::test_of_several_processes_the_first_one_writes[replicated]
numerics/test_evaluation.py::test_oracle_3_strategies_agree_with_plain_evaluation[resnet20-first-layer]
numerics/test_evaluation.py::test_oracle_3_strategies_agree_with_plain_evaluation[resnet20-vmapped]
numerics/test_evaluation.py::test_bfloat16_is_off_by_its_rounding_and_says_how_much[resnet20]
numerics/test_keras_grid.py::test_oracle_2_networks_of_every_kind[embedding masked lstm]
numerics/test_keras_grid.py::test_oracle_2_networks_of_every_kind[lstm unrolled]
numerics/test_keras.py::test_too_little_memory_is_said_from_one_sample_or_one_chunk_and_nothing_is_trained[batch]
unit/test_interrupt.py::test_a_job_ends_with_75_at_any_instant
workflow/test_kills.py::test_each_kind_of_job_ends_with_75_when_it_is_stopped[perturbations-1]
workflow/test_kills.py::test_each_kind_of_job_ends_with_75_when_it_is_stopped[perturbations-12]
unit/test_imported.py::test_order_folder_and_content_of_checkpoints_count
unit/test_command.py::test_plan_and_run_pass_on_to_the_workflow_from_any_folder
""".strip().splitlines()

NETWORKS = (
    *("lstm cell", "lstm, both directions", "gru, two layers", "rnn, relu, both directions, two layers", "padded"),
    *("decoder", "decoder, norm first", "encoder, two layers, mask", "multihead, other keys and values"),
    *("multihead, weights of each head", "multihead, weights used", "instance norm", "weight norm, all at once"),
    *("max pool", "depthwise", "interpolated"),
)
"""Networks of tests/helpers/networks.py whose graphs take long to trace; all are in the whole grid."""

GRID = "numerics/test_every_network.py::test_products_of_every_network_by_every_way"
COSTLY += [f"{GRID}[{name}]" for name in NETWORKS]

SPECTRA = (
    *("bulk alone", "three outliers", "ten outliers, decaying bulk", "power law", "rank one", "log-uniform"),
    *("doubled outliers", "negative outliers", "classifier", "convolutions", "regression"),
)
"""Spectra of numerics/test_outliers.py but for one outlier, which is always drawn with Gaussian probes."""

COVER = "numerics/test_outliers.py::test_error_bars_cover_what_they_state_and_errors_fall"
COSTLY += [f"{COVER}[{name}-{kind}]" for name in SPECTRA for kind in ("gaussian", "rademacher")]
COSTLY += [f"{COVER}[one outlier-rademacher]"]
