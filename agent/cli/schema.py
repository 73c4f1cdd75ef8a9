# SPDX-License-Identifier: Apache-2.0
"""The policy language's schema, for editors and API servers."""

import json

import click

from agent.policy.crd import NAMINGS, write_crd
from agent.policy.json_schema import build_schema


@click.command()
@click.option("--crd", is_flag=True, help="Print the CustomResourceDefinitions, for kubectl apply.")
def schema(crd: bool) -> None:
    """Print the JSON schema of policies, for editors. Needs no agent."""
    if crd:
        click.echo("---\n".join(write_crd(kind) for kind in NAMINGS), nl=False)
    else:
        click.echo(json.dumps(build_schema(), indent=2, ensure_ascii=False))
