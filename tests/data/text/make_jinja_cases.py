"""Records anew what Jinja2 makes of the templates in jinja_cases.json (add templates there first).

    python3 -W ignore tests/data/text/make_jinja_cases.py    # needs Jinja2, written with 3.1.6

The environment is the one in which transformers renders chat templates.
"""
import copy
import json
import pathlib

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

PATH = pathlib.Path(__file__).with_name("jinja_cases.json")


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_generation_support")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _generation_support(self, context, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: "NOW:" + form
    return env


def render(env, template, variables):
    try:
        return env.from_string(template).render(**copy.deepcopy(variables))
    except Exception:  # whatever it is: an error must be an error
        return None


def main():
    env = environment()
    data = json.loads(PATH.read_text())
    variables = data["variables"]
    rows = [[template, render(env, template, variables)] for template, _ in data["cases"]]
    with PATH.open("w") as out:
        out.write('{"note":%s,\n"variables":%s,\n"cases":[\n' % (
            json.dumps(data["note"]), json.dumps(variables, ensure_ascii=False)))
        out.write(",\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
        out.write("\n]}\n")


main()
