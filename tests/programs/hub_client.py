"""Uploads a tokenizer and a generator to the Hub that HF_ENDPOINT names, opens them again, and starts a run from one."""

import jax
import numpy as np
from ml_collections import ConfigDict

from softvq_jax import Generator, Tokenizer
from softvq_jax.train.init_from import start_from
from tests import generator_test
from tests import small_tokenizers as small


def main():
    tokenizer = small.tokenizer(small.config())
    card = {"license": "mit", "metrics": {"rFID": 0.61}, "dataset": "imagenet-1k", "tags": ["test"]}
    print(tokenizer.push_to_hub("someone/tokenizer", token="hf_test", model_card_kwargs=card))
    again = Tokenizer.from_pretrained("someone/tokenizer")
    jax.tree.map(np.testing.assert_array_equal, again.params, tokenizer.params)
    assert again.config == tokenizer.config
    run = ConfigDict({"task": "tokenizer", "init_from": "someone/tokenizer"})
    jax.tree.map(np.testing.assert_array_equal, start_from(run, tokenizer.config, tokenizer.params), tokenizer.params)

    generator = generator_test._generator("sit")
    print(generator.push_to_hub("someone/generator", token="hf_test", branch="main"))
    opened = Generator.from_pretrained("hf://someone/generator")
    assert (opened.config, opened.statistics) == (generator.config, generator.statistics)


if __name__ == "__main__":
    main()
