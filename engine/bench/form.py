"""A form of twenty fields: what its JSON says, and the schema that describes it.

In: nothing. Out: `DOCUMENT` and `SCHEMA`.
"""

from __future__ import annotations

from typing import Any

FORM: dict[str, tuple[Any, dict[str, Any]]] = {
    "first_name": ("Anna", {"type": "string"}),
    "last_name": ("Lindqvist", {"type": "string"}),
    "date_of_birth": ("1984-03-17", {"type": "string", "format": "date"}),
    "nationality": ("Swedish", {"type": "string"}),
    "marital_status": ("married", {"enum": ["single", "married", "widowed", "divorced"]}),
    "number_of_children": (2, {"type": "integer", "minimum": 0}),
    "street_address": ("12 Harbour Road", {"type": "string"}),
    "postal_code": ("41101", {"type": "string"}),
    "city": ("Gothenburg", {"type": "string"}),
    "country": ("Sweden", {"type": "string"}),
    "phone_number": ("+46 31 123 45 67", {"type": "string"}),
    "email_address": ("anna@example.com", {"type": "string", "format": "email"}),
    "employment_status": ("employed", {"enum": ["employed", "self-employed", "unemployed"]}),
    "occupation": ("engineer", {"type": "string"}),
    "annual_income": (52000, {"type": "integer"}),
    "preferred_contact_method": ("email", {"enum": ["email", "phone", "letter"]}),
    "newsletter_subscription": (True, {"type": "boolean"}),
    "has_accepted_terms": (True, {"type": "boolean"}),
    "account_type": ("premium", {"enum": ["basic", "premium", "business"]}),
    "customer_since": (2019, {"type": "integer"}),
}
DOCUMENT = {name: value for name, (value, _) in FORM.items()}
SCHEMA = {
    "type": "object",
    "properties": {name: schema for name, (_, schema) in FORM.items()},
    "required": [*FORM],
}
