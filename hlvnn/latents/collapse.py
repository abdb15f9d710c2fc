"""Learned prior SDs that have all but vanished, told in words."""

from __future__ import annotations

from collections.abc import Iterator

from hlvnn.latents.latent_set import LatentSet

COLLAPSED = 0.02
"""Share of its first SD below which a learned prior counts as collapsed."""
LOST = (
    "its variance was lost to another level because their posteriors are independent: say given= "
    "and parent= (see LatentConfig)"
)
TOO_SHORT = "its start was too far off (prior_warmup holds it there for longer)"


def collapsed(latents: LatentSet) -> Iterator[str]:
    """Yield a sentence for each latent of which a learned prior SD has collapsed."""
    levels = {latent.level for latent in latents}
    independent = all(given is None for given in latents.given)
    for latent in latents:
        if not latent.prior.learned:
            continue
        share = float((latent.prior().stddev.detach() / latent.prior_start).min())
        if share < COLLAPSED:
            reason = LOST if len(levels) > 1 and independent else TOO_SHORT
            yield (
                f"latent {latent.name}: a prior SD has collapsed to {share:.2g} of its start; "
                f"either its groups hardly differ, or {reason}"
            )
