"""The words of OpenAI's API. Only here are names such as `max_completion_tokens` used."""
