"""The tables of the server's rules, and of what goes with any recipe and rule: how to ask for each, and its source."""

from fedha import plugins
from fedha.report.formats import Column, Table
from fedha.rules.table import AVERAGINGS, RULES, RuleRow

# What is asked for, what it does, whether sums may be secure, what may be protected, and its source.
_BESIDE = (
    (
        "recipe.mixup_alpha: 0.2",
        "examples are mixed with others of their batch",
        "yes",
        "clients",
        "Zhang et al., ICLR 2018",
    ),
    (
        "recipe.sam_radius: 0.05",
        "gradients are taken up the client's own loss",
        "yes",
        "clients",
        "Foret et al., ICLR 2021; FedSAM, Qu et al., ICML 2022",
    ),
    (
        "training.head_rounds: 10",
        "the head alone is trained at first, then all",
        "yes",
        "clients",
        "linear probing, then fine-tuning: Kumar et al., ICLR 2022",
    ),
    (
        "model.batch_norm: local",
        "norms' weights and statistics stay with each client",
        "yes",
        "nothing",
        "FedBN, Li et al., ICLR 2021",
    ),
)


def rule_table() -> Table:
    """The rules that `training.optimizer` names, and of which secure sums and privacy each admits."""
    rows = [(name, *_told(row)) for name, row in RULES.items()]
    others = [(name, *_UNKNOWN) for name in plugins.installed(plugins.RULES)]
    heads = ("training.optimizer", "mode", "what it does", "options", "secure sums", "may protect", "source")
    return Table(
        "Rules of the server; any optimiser of torch's besides, by its class' name in small letters",
        tuple(map(Column, heads)),
        (*rows, *others),
    )


def beside_table() -> Table:
    """What goes with any recipe and rule."""
    averages = [
        (
            f"training.weight_averaging: {name}",
            row.summary,
            "yes",
            "clients" if name == "swad" else "examples, clients",
            row.source,
        )
        for name, row in AVERAGINGS.items()
    ]
    heads = ("key", "what it does", "secure sums", "may protect", "source")
    return Table("Beside any recipe, in both modes", tuple(map(Column, heads)), (*_BESIDE[:3], *averages, _BESIDE[3]))


_UNKNOWN = (None, "of an installed package", None, None, None, None)


def _told(row: RuleRow) -> tuple[str | None, ...]:
    summed = "refused" if row.weighs else "yes"
    protected = "nothing" if row.at_clients else "examples, clients"
    return row.mode, row.summary, ", ".join(row.options) or None, summed, protected, row.source or None
