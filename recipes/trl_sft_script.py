"""SFT script of TRL with two names changed: it trains on rows that a selector selects again before every epoch.

It uses `SelectiveSFTConfig` instead of `SFTConfig` and `SelectiveSFTTrainer` instead of `SFTTrainer`. Everything else
is TRL: the flags, a YAML file of flags (`--config FILE.yaml`), and starting it with accelerate or torchrun.

    python recipes/trl_sft_script.py \
        --model_name_or_path Qwen/Qwen3-0.6B \
        --dataset_name tatsu-lab/alpaca \
        --selector iterit --selection_ratio 0.05 --num_train_epochs 3 \
        --output_dir outputs/trl-sft-script

`--dataset_name` is a dataset on the Hub or a folder of files, as in the script of TRL; `hf-datasel train` also reads
a single file. On a CPU add `--use_cpu true --bf16 false`; with `--use_peft` it trains an adapter. The selections are
saved in `output_dir/selections`.
"""

from datasets import load_dataset
from trl import (
    DatasetMixtureConfig,
    ModelConfig,
    ScriptArguments,
    TrlParser,
    get_dataset,
    get_peft_config,
    get_quantization_config,
)

from hf_datasel import SelectiveSFTConfig, SelectiveSFTTrainer


def main(script: ScriptArguments, config: SelectiveSFTConfig, model: ModelConfig, mixture: DatasetMixtureConfig):
    """Load the dataset, train, evaluate if `eval_strategy` is set, and save the model."""
    config.model_init_kwargs = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(config.model_init_kwargs or {}),
    }
    dataset = (
        get_dataset(mixture) if mixture.datasets else load_dataset(script.dataset_name, name=script.dataset_config)
    )
    evaluates = config.eval_strategy != "no"
    trainer = SelectiveSFTTrainer(
        model=model.model_name_or_path,
        args=config,
        train_dataset=dataset[script.dataset_train_split],
        eval_dataset=dataset[script.dataset_test_split] if evaluates else None,
        quantization_config=get_quantization_config(model),
        peft_config=get_peft_config(model),
    )
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    if evaluates:
        trainer.log_metrics("eval", trainer.evaluate())
    trainer.save_model(config.output_dir)
    if config.push_to_hub:
        trainer.push_to_hub(dataset_name=script.dataset_name)


if __name__ == "__main__":
    parser = TrlParser((ScriptArguments, SelectiveSFTConfig, ModelConfig, DatasetMixtureConfig))
    main(*parser.parse_args_and_config())
