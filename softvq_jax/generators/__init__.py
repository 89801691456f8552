"""Latent generators. Each family is one file, and is registered by one line here."""

from softvq_jax.generators.dit import DIT
from softvq_jax.generators.family import register_family
from softvq_jax.generators.mar import MAR
from softvq_jax.generators.maskgit import MASKGIT
from softvq_jax.generators.sit import SIT

register_family(SIT)
register_family(DIT)
register_family(MAR)
register_family(MASKGIT)
