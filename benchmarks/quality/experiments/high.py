"""More parameters than the network has, at the same inference cost (Tables 3 and 4)."""

from benchmarks.quality.experiments.settings import FASHION, WRN16, Setting
from benchmarks.quality.spec import Case, Experiment, Printed


def _high(setting: Setting) -> tuple[Case, ...]:
    setting = setting.with_options(recalibrate=True)
    return (
        setting.dense(),
        setting.npas("npas, 2x", "2x"),
        setting.npas("npas, 4x", "4x", "hb-ssn"),
    )


EXPERIMENTS = (
    Experiment(
        "high/cifar10",
        "More parameters than the network has: CIFAR-10",
        "WRN-16-1, 10,000 images at 16x16, 16 epochs. Batch norm is recalibrated after training, "
        "in all arms, and the weights are materialised for the test. "
        "The paper's Tables 3 and 4, without distillation and pruning.",
        _high(WRN16),
        "dense",
        seeds=10,
        paper=(
            Printed("3", "wrn-16-2", "CIFAR-100"),
            Printed("4", "resnet-56", "CIFAR-10", measure="error@1"),
        ),
        minutes=60,
    ),
    Experiment(
        "high/fashion-mnist",
        "More parameters than the network has: Fashion-MNIST",
        "WRN-16-1 on grey images, 10,000 of them at 14x14, 8 epochs.",
        _high(FASHION),
        "dense",
        seeds=10,
        minutes=20,
    ),
)
