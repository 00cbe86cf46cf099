r"""Compares settings of FedSynth at equal bytes, on a few clients or whole runs.

  fedsynth-ablate --task=plays_character --model=small_character_lstm \
      --compression_ratio=500 --seeds=0,1,2 \
      --variant=synthetic_input_form=soft_tokens \
      --variant=synthetic_input_form=embeddings,synthetic_label_form=sparse \
      --output_dir=DIR

The first row is what the other flags say; a variant changes some of them.
"""

from tff_fedsynth.experiments import cli
from tff_fedsynth.experiments.help import entrance


def main() -> None:
  """Entry point of `fedsynth-ablate`."""
  with cli.command():
    entrance.answer('ablate')
    # Imports TensorFlow, which takes seconds.
    from tff_fedsynth.experiments.measuring import ablation

    ablation.main()


if __name__ == '__main__':
  main()
