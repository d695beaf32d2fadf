"""The sources of a mixture, and the order of samples."""

from launcher.config import plugins
from launcher.config.recipe import Recipe
from launcher.config.types import Plugin
from launcher.contract.order import Mixture, Order
from launcher.plan.facts import Facts


def weights(source: Plugin) -> dict[str, float]:
    """Return the shares of a mixture's sources; empty for any other source."""
    return {name: weight for name, (_, weight) in plugins.source(source).mixed().items()}


def order(recipe: Recipe, facts: Facts) -> Order | Mixture:
    """Return the order of samples, of one source or of a mixture."""
    shares = weights(recipe.data.train)
    if not shares:
        return Order(facts.samples["train"], recipe.seed)
    names = list(facts.sources)  # in the order of the prepared folder, not of the recipe
    return Mixture(tuple(facts.sources.values()), tuple(shares[name] for name in names), recipe.seed)
