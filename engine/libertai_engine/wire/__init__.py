"""The llama-like API's words. Only here are wire names such as `n_predict` used."""
