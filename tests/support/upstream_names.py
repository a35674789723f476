"""Names of other packages that no documentation promises to keep: where they are, and what of ours relies on them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Name:
    """A name we rely on: ``module:attribute``, parameters that must exist in this order, and the user's file."""

    path: str
    parameters: tuple[str, ...] | None
    used_by: str


TRAINER = "verl.trainer.ppo.v1.trainer_sync:PPOTrainerSync"
ALGORITHMS = "verl.trainer.ppo.core_algos"
COLOCATED = "verl.trainer.ppo.v1.trainer_colocate_async:PPOTrainerColocateAsync"
SEPARATE = "verl.trainer.ppo.v1.trainer_separate_async:PPOTrainerSeparateAsync"
CLIENT = "verl.workers.rollout.llm_server:FullyAsyncLLMServerClient"
SERVER = "verl.workers.rollout.vllm_rollout.vllm_async_server:vLLMHttpServer"
ENGINE = "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead"
NAMES = [
    # The trainer's overridden steps.
    Name(f"{TRAINER}._init_resource_pool_mgr", ("self",), "verl_adapter/trainer/mixin.py"),
    Name(f"{TRAINER}.fit", ("self", "agent_loop_manager"), "verl_adapter/trainer/mixin.py"),
    Name(
        "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._sync_metadata_from_transfer_queue",
        ("self",),
        "verl_adapter/trainer/worker_watch.py",
    ),
    Name(f"{TRAINER}._load_checkpoint", ("self",), "verl_adapter/trainer/mixin.py"),
    Name(f"{TRAINER}._save_checkpoint", ("self",), "verl_adapter/trainer/mixin.py"),
    Name(f"{TRAINER}.on_step_begin", ("self",), "verl_adapter/trainer/mixin.py"),
    Name(f"{TRAINER}._submit_batch_to_rollout", ("self", "batch"), "verl_adapter/trainer/mixin.py"),
    Name(
        f"{TRAINER}._balance_batch",
        ("self", "batch", "metrics", "logging_prefix", "keep_minibatch"),
        "verl_adapter/trainer/mixin.py",
    ),
    Name(f"{TRAINER}._update_actor", ("self", "batch", "metrics"), "verl_adapter/trainer/mixin.py"),
    Name(f"{TRAINER}._step_once", ("self", "metrics"), "verl_adapter/trainer/mixin.py"),
    Name(
        f"{TRAINER}._val_metrics_update",
        (
            "self",
            "data_sources",
            "sample_uids",
            "reward_extra_infos_dict",
            "sample_turns",
            "expected_acc_counts",
        ),
        "verl_adapter/trainer/mixin.py",
    ),
    Name(
        f"{TRAINER}._compute_metrics",
        ("self", "batch", "metrics", "timing_raw", "global_steps", "epoch"),
        "verl_adapter/trainer/mixin.py",
    ),
    Name(f"{TRAINER}.step", ("self", "metrics", "timing_raw"), "verl_adapter/trainer/mixin.py"),
    Name("verl.trainer.ppo.v1.trainer_base:register_trainer", ("name",), "verl_adapter/trainer/modes.py"),
    Name(f"{COLOCATED}.get_llm_client", ("self",), "verl_adapter/trainer/modes.py"),
    Name(f"{SEPARATE}.get_llm_client", ("self",), "verl_adapter/trainer/modes.py"),
    Name(f"{SEPARATE}._init_resource_pool_mgr", ("self",), "verl_adapter/trainer/mixin.py"),
    Name(f"{SEPARATE}._setup", ("self",), "verl_adapter/trainer/modes.py"),
    Name(f"{SEPARATE}._enable_hybrid_replicas", None, "verl_adapter/trainer/modes.py"),
    Name(f"{SEPARATE}.on_step_begin", ("self",), "verl_adapter/trainer/mixin.py"),
    # Requests that weight updates interrupt.
    Name(
        "verl.workers.rollout.llm_server:LLMServerManager.get_client",
        ("self", "client_cls"),
        "verl_adapter/trainer/modes.py",
    ),
    Name(
        f"{CLIENT}.__init__",
        ("self", "config", "load_balancer_handle"),
        "verl_adapter/rollout/server_client.py",
    ),
    Name(
        f"{CLIENT}.generate",
        ("self", "request_id", "prompt_ids", "sampling_params"),
        "verl_adapter/rollout/server_client.py",
    ),
    Name(
        "verl.workers.rollout.llm_server:LLMServerClient.generate",
        ("self", "request_id", "prompt_ids", "sampling_params"),
        "verl_adapter/rollout/server_client.py",
    ),
    Name(
        "verl.experimental.separation.engine_workers:DetachActorWorker.save_model_to_cpu",
        ("self", "n"),
        "verl_adapter/actor/worker.py",
    ),
    # Groups are whole when they are sampled.
    Name(
        "verl.trainer.ppo.v1.replay_buffer:ReplayBufferAsync._sampleable_terminal_keys",
        ("self", "partition_id", "eviction_reasons"),
        "verl_adapter/trainer/mixin.py",
    ),
    # The actor worker and its engine.
    Name(
        "verl.workers.engine_workers:TrainingWorker.train_batch",
        ("self", "data"),
        "verl_adapter/actor/worker.py",
    ),
    Name(
        "verl.workers.engine_workers:TrainingWorker.train_mini_batch",
        ("self", "data"),
        "verl_adapter/actor/worker.py",
    ),
    Name(
        "verl.workers.engine_workers:TrainingWorker.set_loss_fn",
        ("self", "loss_fn"),
        "verl_adapter/actor/worker.py",
    ),
    Name(
        "verl.workers.engine_workers:ActorRolloutRefWorker.init_model",
        ("self",),
        "verl_adapter/actor/worker.py",
    ),
    Name(
        "verl.workers.engine_workers:ActorRolloutRefWorker.actor_worker_cls",
        None,
        "verl_adapter/actor/worker.py",
    ),
    Name(f"{ENGINE}.prepare_model_inputs", ("self", "micro_batch"), "verl_adapter/actor/teacher_pass.py"),
    Name(f"{ENGINE}.train_mode", ("self", "kwargs"), "verl_adapter/actor/worker.py"),
    Name(f"{ENGINE}.get_data_parallel_group", ("self",), "verl_adapter/actor/worker.py"),
    Name(
        "verl.workers.engine.utils:prepare_micro_batches",
        ("data", "dp_group", "num_batches_divided_by", "same_micro_num_in_dp"),
        "verl_adapter/actor/teacher_pass.py",
    ),
    Name(
        "verl.single_controller.base.decorator:make_nd_compute_dataproto_dispatch_fn",
        ("mesh_name",),
        "verl_adapter/actor/worker.py",
    ),
    # The sockets of new weights.
    Name("verl.workers.rollout.base:_ROLLOUT_REGISTRY", None, "verl_adapter/rollout/weight_sockets.py"),
    Name(
        "verl.workers.rollout.replica:RolloutReplicaRegistry.register",
        ("name", "loader"),
        "verl_adapter/rollout/weight_sockets.py",
    ),
    Name(f"{SERVER}._post_init", ("self", "cuda_visible_devices"), "verl_adapter/rollout/vllm_rollout.py"),
    # The agent loop.
    Name("verl.experimental.agent_loop.agent_loop:_agent_loop_registry", None, "plugin.py"),
    Name(
        "verl.experimental.agent_loop.agent_loop:AgentLoopBase.__init__",
        ("self", "trainer_config", "server_manager", "tokenizer", "processor", "dataset_cls", "data_config"),
        "verl_adapter/rollout/agent_loop.py",
    ),
    Name(
        "verl.experimental.agent_loop.agent_loop:AgentLoopOutput",
        ("prompt_ids", "response_ids", "response_mask", "response_logprobs"),
        "verl_adapter/rollout/agent_loop.py",
    ),
    # The data plane.
    Name(
        "transfer_queue:kv_batch_get",
        ("keys", "partition_id", "select_fields"),
        "verl_adapter/trainer/data_plane.py",
    ),
    Name("transfer_queue:kv_list", ("partition_id",), "verl_adapter/trainer/data_plane.py"),
    Name("transfer_queue:kv_clear", ("keys", "partition_id"), "verl_adapter/trainer/data_plane.py"),
    Name(
        "transfer_queue:kv_batch_put",
        ("keys", "partition_id", "fields"),
        "verl_adapter/trainer/data_plane.py",
    ),
    Name(
        "verl.utils.tokenizer.continuous_token:ContinuousTokenBuilder.render_delta_token_id",
        ("self", "prefix_messages", "appended_messages", "add_generation_prompt", "tools"),
        "verl_adapter/rollout/token_builder.py",
    ),
    # The configuration's nodes, read without resolving them.
    Name(f"{ALGORITHMS}:ADV_ESTIMATOR_REGISTRY", None, "verl_adapter/preflight/names.py"),
    Name(f"{ALGORITHMS}:POLICY_LOSS_REGISTRY", None, "verl_adapter/preflight/names.py"),
    Name("verl.utils.tracking:Tracking.supported_backend", None, "verl_adapter/preflight/names.py"),
    # verl's command, composed as Hydra does it.
    Name("hydra._internal.utils:get_args_parser", (), "verl_adapter/preflight/command.py"),
    Name(
        "hydra._internal.utils:create_automatic_config_search_path",
        ("calling_file", "calling_module", "config_path"),
        "verl_adapter/preflight/command.py",
    ),
    Name(
        "hydra._internal.hydra:Hydra.create_main_hydra2",
        ("task_name", "config_search_path"),
        "verl_adapter/preflight/command.py",
    ),
    Name(
        "hydra._internal.hydra:Hydra.compose_config",
        ("self", "config_name", "overrides", "run_mode"),
        "verl_adapter/preflight/command.py",
    ),
    Name("omegaconf:DictConfig._get_node", ("self", "key"), "verl_adapter/preflight/options.py"),
    Name("omegaconf:DictConfig._is_none", ("self",), "verl_adapter/preflight/options.py"),
    Name("omegaconf:DictConfig._is_interpolation", ("self",), "verl_adapter/preflight/options.py"),
    # Autograd: the prehook on the node that made the logits.
    Name("torch.autograd.graph:Node.register_prehook", ("self", "fn"), "distill/select_rows.py"),
    Name("torch.autograd.graph:Node.next_functions", None, "distill/select_rows.py"),
    # Downloads that resume.
    Name("huggingface_hub.file_download:http_get", ("url", "temp_file", "resume_size"), "data/hub.py"),
    Name("huggingface_hub.utils:build_hf_headers", ("token",), "data/hub.py"),
    # Evaluation's engine.
    Name("vllm.v1.engine.async_llm:AsyncLLM.from_engine_args", ("engine_args",), "evaluation/engine.py"),
    Name(
        "vllm.v1.engine.async_llm:AsyncLLM.generate",
        ("self", "prompt", "sampling_params", "request_id"),
        "evaluation/engine.py",
    ),
    Name("vllm.v1.engine.exceptions:EngineDeadError", (), "evaluation/engine.py"),
]

ATTRIBUTES = {
    "verl.workers.engine.fsdp.transformer_impl": [
        "_autocast_dtype",
        "use_ulysses_sp",
        "ulysses_sequence_parallel_size",
        "ulysses_parallel_group",
        "distillation_use_topk",
        "student_logits",
    ],
    "verl.workers.engine.base": ["disable_auto_offload"],
    "verl.trainer.ppo.v1.trainer_base": [
        "self.timing_raw",
        "self.global_steps",
        "self.steps_per_epoch",
        "self.role_worker_mapping",
        "self.actor_rollout_wg",
        "self.tokenizer",
        "self.trainer_mode",
        "self.parameter_sync_step",
        "self.local_trigger_step",
        "self.llm_server_manager",
        '"transfer_queue"',
        '"is_prompt"',
        '"is_padding"',
    ],
    "verl.trainer.ppo.v1.trainer_separate_async": ["self.standalone_server_manager"],
    "verl.trainer.ppo.v1.replay_buffer": ['"is_prompt"', "rollout_failure"],
    "verl.trainer.ppo.padding_utils": ["is_padding"],
    "verl.experimental.agent_loop.agent_loop": [
        "self.apply_chat_template_kwargs",
        "self.rollout_config",
        "self.server_manager",
        "self.agent_loop_workers",
    ],
    "verl.trainer.ppo.v1.agent_loop_tq": ["global_steps", 'f"{uid}_{session_id}_{i}"'],
    "verl.workers.rollout.vllm_rollout.vllm_rollout": ["rl-colocate-zmq-{job_id}-replica"],
    "verl.workers.rollout.vllm_rollout.utils": ['"VERL_RAY_JOB_ID"'],
}
"""Attributes and keys that the text of a module holds as words; a class does not list those of its instances."""
