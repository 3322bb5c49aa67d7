#!/usr/bin/env python3
"""Checks manifests/aws/: cfn-lint on each template, the shell that a node runs, and what templates and the rest of the
repository name of each other. The script of a node is also run, with stand-ins for AWS, curl and k3s, and what it writes
is read; and so are commands of docs/aws.md.

Before it reads the repository, it tries every check on a template with one fault in it, which the check must find.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

try:
    import tomllib
except ImportError:  # before Python 3.11; pip brings the same parser
    from pip._vendor import tomli as tomllib

from check_manifests import MANIFESTS, Tools, known_of_the_repository, parse, render  # noqa: E402
from engines import from_wheel, shellcheck, verdict  # noqa: E402
from manifests_references import Known  # noqa: E402
from manifests_tree import Tree  # noqa: E402
from supervisor import Failed, Supervisor, supervised  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
AWS = MANIFESTS / "aws"
CFN_LINT_VERSION = "1.58.0"
SAM_TRANSLATOR_VERSION = "1.115.0"
# CloudFormation's own limits.
USER_DATA_BYTES = 16_384
ADVANCED_PARAMETER_BYTES = 8_192
NAMES_BYTES = 400  # by which what AWS calls its buckets, secrets and roles is longer than what stands for it here
TEMPLATE_BYTES = 51_200  # without a bucket to put it into
REGION = "eu-central-1"
# cfn-lint takes any name for one.
RUNTIMES = ("provided.al2023", "python3.13")
# Of AWS Lambda Web Adapter 0.9.1, as scripts/try_lambda.py runs it.
ADAPTER_VARIABLES = {f"AWS_LWA_{name}" for name in (
    "ASYNC_INIT", "PORT", "READINESS_CHECK_MIN_UNHEALTHY_STATUS", "READINESS_CHECK_PATH", "READINESS_CHECK_PORT")}
# What an HTTP API waits for a function.
HTTP_API_SECONDS = 30
# What is tried with; everything else has a default.
EC2_PARAMETERS = {"ImageA": "ami-0123456789abcdef0", "ImageB": "ami-0123456789abcdef0",
                  "ImageC": "ami-0123456789abcdef0", "K3sSha256": "0" * 64}
PSEUDO = {"AWS::Region": REGION, "AWS::AccountId": "111122223333", "AWS::Partition": "aws", "AWS::StackName": "microblog",
          "AWS::URLSuffix": "amazonaws.com",
          "AWS::StackId": "arn:aws:cloudformation:eu-central-1:111122223333:stack/microblog/1", "AWS::NoValue": None}


@dataclass
class Repository:
    """What is checked: the templates as text and as CloudFormation sees them, and what they have to agree with."""
    texts: dict[str, str]
    templates: dict[str, dict]
    overlay: Tree
    known: Known
    bootstraps: dict[str, str]
    environments: dict
    cors: str
    defaults: dict[str, str]
    guide: str


def main(supervisor: Supervisor) -> int:
    tools = AwsTools(supervisor)
    repository = read(tools)
    with ThreadPoolExecutor() as pool:
        linted = pool.submit(lint, tools, repository.texts)
        problems = [*blind(tools, repository), *(problem for check in CHECKS for problem in check(tools, repository))]
        problems += linted.result()
    return verdict(
        problems,
        f"{len(repository.texts)} templates in manifests/aws/: cfn-lint finds nothing, what they name is there, "
        "and a node starts as it should; commands of docs/aws.md that can be run here do what they say")


class AwsTools(Tools):
    def __init__(self, supervisor: Supervisor):
        super().__init__(supervisor)
        self.cfn_lint = from_wheel(supervisor, "cfn-lint", CFN_LINT_VERSION, "cfn-lint")
        from_wheel(supervisor, "aws-sam-translator", SAM_TRANSLATOR_VERSION, "python3")
        self.shellcheck = shellcheck(supervisor)


def read(tools: AwsTools) -> Repository:
    texts = {path.name: path.read_text() for path in sorted(AWS.glob("*.yaml"))}
    rendered = parse(tools, [render(tools, MANIFESTS / "overlays" / "k3s")])[0]
    settings = (ROOT / "docs" / "settings.md").read_text()
    return Repository(
        texts, expand(tools, texts), Tree("overlays/k3s", rendered), known_of_the_repository(),
        {path.stem: path.read_text() for path in AWS.glob("lambda/*.sh")},
        tomllib.loads((AWS / "samconfig.toml").read_text()), (ROOT / "shared/src/web/cors.rs").read_text(),
        dict(re.findall(r"^\| `([A-Z_]+)` \| `([^`]+)` \|", settings, re.MULTILINE)),
        (ROOT / "docs" / "aws.md").read_text())


# --- templates --------------------------------------------------------------------------------------------------

EXPAND = """
import json, sys
from cfnlint.decode import decode
from cfnlint.template import Template
from cfnlint.template.transforms._language_extensions import language_extension
found = {}
for path in sys.argv[1:]:
    template, faults = decode(path)
    if not faults and template.get("Transform") == "AWS::LanguageExtensions":
        faults, template = language_extension(Template(path, template))
    found[path] = [str(fault) for fault in faults] or template
print(json.dumps(found, default=str))
"""


def expand(tools: AwsTools, texts: dict[str, str]) -> dict[str, dict]:
    """As CloudFormation has them when each `Fn::ForEach` is carried out."""
    with tempfile.TemporaryDirectory(prefix="microblog-aws-") as folder:
        paths = written(Path(folder), texts)
        ran = subprocess.run([tools.python, "-c", EXPAND, *paths], capture_output=True, text=True)
        if ran.returncode:
            raise Failed(f"the templates cannot be read: {ran.stderr.strip()}")
        found = json.loads(ran.stdout)
    for path, template in found.items():
        if isinstance(template, list):
            raise Failed(f"{Path(path).name}: {' '.join(template)}")
    return {Path(path).name: template for path, template in found.items()}


def written(folder: Path, texts: dict[str, str]) -> list[Path]:
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [folder / name for name in texts]


def lint(tools: AwsTools, texts: dict[str, str]) -> list[str]:
    """What cfn-lint says; it resolves references, conditions and mappings as well."""
    with tempfile.TemporaryDirectory(prefix="microblog-aws-") as folder:
        command = [tools.cfn_lint, "--regions", REGION, "--format", "parseable", *written(Path(folder), texts)]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode & ~(2 | 4 | 8):  # errors, warnings, information
            raise Failed(f"cfn-lint: {ran.stderr.strip()}")
        return [line.removeprefix(f"{folder}/") for line in ran.stdout.splitlines() if line]


def evaluate(value, template: dict, parameters: dict[str, str]):
    """What CloudFormation makes of a value; what only AWS knows becomes a name that tells what it is."""
    def again(inner):
        return evaluate(inner, template, parameters)

    if isinstance(value, list):
        return [each for each in map(again, value) if each is not None]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (name, argument), = value.items()
        if name == "Ref":
            return named(again(argument), template, parameters)
        if name == "Fn::GetAtt":
            return "-".join(again(part) for part in (argument if isinstance(argument, list) else argument.split(".")))
        if name == "Fn::Sub":
            text, own = (argument[0], again(argument[1])) if isinstance(argument, list) else (argument, {})
            filled = re.sub(r"\$\{([\w:.]+)\}", lambda found: str(
                own[found[1]] if found[1] in own else named(found[1], template, parameters)), text)
            return filled.replace("${!", "${")
        if name == "Fn::Join":
            return again(argument[0]).join(map(str, again(argument[1])))
        if name == "Fn::Base64":
            return again(argument)
        if name == "Fn::FindInMap":
            first, second, third = map(again, argument)
            return template["Mappings"][first][second][third]
        if name == "Fn::If":
            return again(argument[1] if holds(template["Conditions"][argument[0]], template, parameters) else argument[2])
    return {key: again(inner) for key, inner in value.items()}


def named(name: str, template: dict, parameters: dict[str, str]):
    if name in PSEUDO:
        return PSEUDO[name]
    if name in template.get("Parameters", {}):
        return parameters.get(name, template["Parameters"][name].get("Default", ""))
    return name.replace(".", "-")


def holds(condition: dict, template: dict, parameters: dict[str, str]) -> bool:
    (name, argument), = condition.items()
    if name == "Condition":
        return holds(template["Conditions"][argument], template, parameters)
    if name == "Fn::Not":
        return not holds(argument[0], template, parameters)
    if name == "Fn::Equals":
        return evaluate(argument[0], template, parameters) == evaluate(argument[1], template, parameters)
    raise Failed(f"scripts/check_aws.py does not know the condition {name}")


def properties(repository: Repository, file: str, name: str, parameters: dict[str, str] | None = None) -> dict:
    template = repository.templates[file]
    return evaluate(template["Resources"][name]["Properties"], template, parameters or EC2_PARAMETERS)


# --- the checks: each yields what is wrong -----------------------------------------------------------------------

def plain_yaml(_tools: AwsTools, repository: Repository) -> Iterator[str]:
    """CloudFormation reads neither anchors nor aliases, which cfn-lint does."""
    for name, text in repository.texts.items():
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(r"(^|[:\-\[,{] )\s*[&*][A-Za-z]\w*\s*($|[,\]}])", line):
                yield f"{name}:{number}: CloudFormation takes no anchors and aliases"
        if len(text.encode()) > TEMPLATE_BYTES:
            yield f"{name} is longer than {TEMPLATE_BYTES} bytes"


def unused(_tools: AwsTools, repository: Repository) -> Iterator[str]:
    """Parameters; cfn-lint looks for them only where there is no transform."""
    for name, template in repository.templates.items():
        rest = json.dumps({key: value for key, value in template.items() if key != "Parameters"})
        for each in template.get("Parameters", {}):
            if f'"Ref": "{each}"' not in rest and f"${{{each}}}" not in rest:
                yield f"{name}: nobody uses the parameter {each}"


def shell(tools: AwsTools, repository: Repository) -> Iterator[str]:
    """The shell that nodes run, filled in: within its limits, and to shellcheck's liking."""
    for name, text, limit in (
            ("the user data of NodeA", properties(repository, "ec2.yaml", "NodeA")["UserData"], USER_DATA_BYTES),
            ("NodeScript", properties(repository, "ec2.yaml", "NodeScript")["Value"],
             ADVANCED_PARAMETER_BYTES - NAMES_BYTES)):
        if len(text.encode()) > limit:
            yield f"ec2.yaml: {name} has {len(text.encode())} bytes, and {limit} are allowed"
        ran = subprocess.run([tools.shellcheck, "--format", "gcc", "-"], input=text, capture_output=True, text=True)
        yield from (f"ec2.yaml: {name}, line {line.removeprefix('-:')}" for line in ran.stdout.splitlines())


def agreements(_tools: AwsTools, repository: Repository) -> Iterator[str]:
    """Template and overlay name the same ports, networks, roles, accounts and repositories."""
    template, tree = repository.templates["ec2.yaml"], repository.overlay
    service = tree.find("Service", "gateway")["spec"]
    ports = {each["name"]: (each["port"], each["nodePort"]) for each in service["ports"]}
    check = service.get("healthCheckNodePort")
    for entry, name in (("Web", "web"), ("Websecure", "websecure")):
        targets = properties(repository, "ec2.yaml", f"Targets{entry}")
        there = (properties(repository, "ec2.yaml", f"Listener{entry}")["Port"], targets["Port"])
        if there != ports[name]:
            yield f"ec2.yaml: {entry} leads from and to {there}, and the Service gateway has {ports[name]}"
        if targets["HealthCheckPort"] != str(check):
            yield f"ec2.yaml: {entry} asks {targets['HealthCheckPort']} for health, and the Service answers at {check}"
    opened = [(rule["FromPort"], rule["ToPort"]) for rule in
              properties(repository, "ec2.yaml", "NodeGroup")["SecurityGroupIngress"]]
    for port in (*(node_port for _, node_port in ports.values()), check):
        if not any(first <= port <= last for first, last in opened):
            yield f"ec2.yaml: nodes let nobody in at {port}, where the Service gateway is"

    network = properties(repository, "ec2.yaml", "Network")["CidrBlock"]
    for policy in tree.of("NetworkPolicy"):
        blocks = [peer["ipBlock"]["cidr"] for rule in policy["spec"].get("egress", []) for peer in rule.get("to", [])
                  if "ipBlock" in peer]
        asks_api_server = "10.43.0.1/32" in blocks
        if asks_api_server and network not in blocks:
            yield f"overlays/k3s: {policy['metadata']['name']} does not reach the nodes' network {network}"

    account = tree.find("ServiceAccount", "external-secrets")["metadata"]
    wanted = account["annotations"]["eks.amazonaws.com/role-arn"].rpartition("/")[2]
    role = properties(repository, "ec2.yaml", "SecretsRole")
    if role["RoleName"] != wanted:
        yield f"ec2.yaml: SecretsRole is {role['RoleName']}, and manifests/overlays/ec2/secrets.yaml names {wanted}"
    subject = f"system:serviceaccount:{account['namespace']}:{account['name']}"
    if subject not in role["AssumeRolePolicyDocument"]:
        yield f"ec2.yaml: SecretsRole is not for {subject}"
    readable = json.dumps(role["Policies"])
    for each in tree.of("ExternalSecret"):
        for data in each["spec"]["data"]:
            prefix = data["remoteRef"]["key"].partition("/")[0]
            if f":secret:{prefix}/*" not in readable:
                yield f"ec2.yaml: SecretsRole may not read {data['remoteRef']['key']}"
    prefix = template["Parameters"]["Repositories"]["Default"]
    images = {container["image"] for deployment in tree.of("Deployment")
              for container in deployment["spec"]["template"]["spec"]["containers"]}
    ours = {image for image in images if ".dkr.ecr." in image}
    for image in sorted(ours):
        if not image.partition("/")[2].startswith(f"{prefix}/"):
            yield f"ec2.yaml: nodes may not pull {image}, for Repositories is {prefix}"
    if not ours:
        yield "overlays/k3s: no image comes from ECR"


def trust(_tools: AwsTools, repository: Repository) -> Iterator[str]:
    """Policies of trust that are text are JSON, and name audience and subject."""
    for name in ("SecretsRole", "VolumesRole"):
        text = properties(repository, "ec2.yaml", name)["AssumeRolePolicyDocument"]
        try:
            statement = json.loads(text)["Statement"][0]
        except (ValueError, LookupError, TypeError) as error:
            yield f"ec2.yaml: the policy of trust of {name} cannot be read: {error}"
            continue
        keys = {key.rpartition(":")[2] for key in statement.get("Condition", {}).get("StringEquals", {})}
        if keys != {"aud", "sub"}:
            yield f"ec2.yaml: {name} trusts by {sorted(keys)}, and not by audience and subject"


def safety(_tools: AwsTools, repository: Repository) -> Iterator[str]:
    """What an operator relies on, and no tool asks for."""
    for name, resource in repository.templates["ec2.yaml"]["Resources"].items():
        kind, values = resource["Type"], resource.get("Properties", {})
        if kind == "AWS::EC2::Instance":
            if values.get("MetadataOptions") != {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}:
                yield f"ec2.yaml: pods can take the role of {name}"
            devices = values.get("BlockDeviceMappings", [{"Ebs": {}}])
            if not all(device["Ebs"].get("Encrypted") is True for device in devices):
                yield f"ec2.yaml: a volume of {name} is not encrypted"
            if "ResourceSignal" not in resource.get("CreationPolicy", {}):
                yield f"ec2.yaml: the stack does not wait for {name}"
        if kind == "AWS::EC2::SecurityGroup":
            for rule in values.get("SecurityGroupIngress", []):
                if rule.get("CidrIp") and rule["FromPort"] not in (80, 443):
                    yield f"ec2.yaml: {name} lets the world in at {rule['FromPort']}"
        if kind == "AWS::S3::Bucket" and set(values.get("PublicAccessBlockConfiguration", {}).values()) != {True}:
            yield f"ec2.yaml: the bucket {name} may become public"
    rules = properties(repository, "ec2.yaml", "Backups")["LifecycleConfiguration"]["Rules"]
    if any("ExpirationInDays" in rule or "ExpirationDate" in rule for rule in rules):
        yield "ec2.yaml: backups end by their age, though newer ones may need them"
    for name in ("Backups", "JoinToken"):
        if repository.templates["ec2.yaml"]["Resources"][name].get("DeletionPolicy") != "Retain":
            yield f"ec2.yaml: {name} goes with the stack"


# --- serverless -------------------------------------------------------------------------------------------------

FUNCTIONS = {"CommandFunction": ("command-service", "COMMAND"), "QueryFunction": ("query-service", "QUERY")}


def serverless(repository: Repository) -> dict:
    return repository.templates["serverless.yaml"]


def variables(repository: Repository, function: str) -> dict:
    """Of a function, those of all functions included; as they are written."""
    template = serverless(repository)
    return {**template["Globals"]["Function"]["Environment"]["Variables"],
            **template["Resources"][function]["Properties"]["Environment"]["Variables"]}


def containers(repository: Repository) -> Iterator[tuple[str, dict]]:
    for name, resource in serverless(repository)["Resources"].items():
        if resource["Type"] == "AWS::ECS::TaskDefinition":
            yield from ((name, container) for container in resource["Properties"]["ContainerDefinitions"])


def settings(_tools: AwsTools, repository: Repository) -> Iterator[str]:
    """Variables are settings of the services or of the adapter, or a bootstrap reads them; and ports are the defaults."""
    for function, (service, prefix) in FUNCTIONS.items():
        named_here = variables(repository, function)
        bootstrap = repository.bootstraps[service]
        read_there = set(re.findall(r"\$\{?([A-Z_]+)", bootstrap)) - {"LAMBDA_TASK_ROOT"}
        for name in named_here:
            if name not in repository.known.settings | ADAPTER_VARIABLES | read_there:
                yield f"serverless.yaml: {function} has {name}, which nobody reads"
        for name in read_there - set(named_here):
            yield f"serverless.yaml: {function} lacks {name}, which its bootstrap reads"
        if f'exec "$LAMBDA_TASK_ROOT/{service}" --role api' not in bootstrap:
            yield f"{service}.sh does not become the API of {service}"
        for variable, setting in (("AWS_LWA_PORT", f"{prefix}_ADDR"),
                                  ("AWS_LWA_READINESS_CHECK_PORT", f"{prefix}_OPS_ADDR")):
            port = repository.defaults[setting].rpartition(":")[2]
            if named_here.get(variable) != port:
                yield f"serverless.yaml: {function} has {variable} {named_here.get(variable)}, and {setting} has {port}"
        if named_here["AWS_LWA_READINESS_CHECK_PATH"] not in repository.known.operator_paths:
            yield f"serverless.yaml: {function} asks {named_here['AWS_LWA_READINESS_CHECK_PATH']} whether it is ready"
    for task, container in containers(repository):
        for each in (*container["Environment"], *container["Secrets"]):
            if each["Name"] not in repository.known.settings:
                yield f"serverless.yaml: {task} has {each['Name']}, which is no setting"
        roles = {role for service in repository.known.roles.values() for role in service}
        if container["Command"][0] != "--role" or container["Command"][1] not in roles:
            yield f"serverless.yaml: {task} has the arguments {container['Command']}"


def secrets(_tools: AwsTools, repository: Repository) -> Iterator[str]:
    """Secrets and their keys are those of manifests/secrets.json."""
    text = json.dumps(serverless(repository))
    found = [*re.findall(r"\{\{resolve:secretsmanager:\$\{Secrets\}/([\w-]+):SecretString:([\w.-]+)\}\}", text),
             *re.findall(r":secret:\$\{Secrets\}/([\w-]+):([\w.-]+)::", text)]
    if not found or text.count("{{resolve:") + text.count("ValueFrom") != len(found):
        yield "serverless.yaml: a secret is not named as scripts/check_aws.py looks for it"
    for name, key in found:
        if key not in repository.known.secrets.get(name, ()):
            yield f"serverless.yaml: manifests/secrets.json has no {key} of {name}"
    for name in set(re.findall(r":secret:\$\{Secrets\}/([\w-]+):[\w.-]+::", text)):
        if f":secret:${{Secrets}}/{name}-??????" not in text:
            yield f"serverless.yaml: WorkerRole may not read {name}"
    for name, resource in serverless(repository)["Resources"].items():
        common = serverless(repository)["Globals"]["Function"] if resource["Type"] == "AWS::Serverless::Function" else {}
        said = json.dumps({**common, **resource.get("Properties", {})})
        if ("{{resolve:" in said or '"ValueFrom"' in said) and "SecretsTaken" not in said:
            yield f"serverless.yaml: {name} stays with old secrets, whatever SecretsTaken says"


def routes(_tools: AwsTools, repository: Repository) -> Iterator[str]:
    """As the gateway has it: GET and HEAD to the query service, but for the keys; the rest to the command service."""
    resources = serverless(repository)["Resources"]
    functions = {name: values["Properties"]["IntegrationUri"]["Fn::GetAtt"][0] for name, values in resources.items()
                 if values["Type"] == "AWS::ApiGatewayV2::Integration"}
    found = {}
    for values in resources.values():
        if values["Type"] == "AWS::ApiGatewayV2::Route":
            route = values["Properties"]
            found[route["RouteKey"]] = functions[re.search(r"\$\{(\w+)\}", route["Target"]["Fn::Sub"])[1]]
    # `/{proxy+}` is what lies below `/`, and not that itself.
    wanted = {"$default": "CommandFunction",
              **{f"{method} {path}": "QueryFunction" for method in ("GET", "HEAD") for path in ("/", "/{proxy+}")},
              f"GET {repository.known.key_set}": "CommandFunction", "GET /api/v1/timeline/stream": "NoStreams"}
    if found != wanted:
        yield f"serverless.yaml: the routes are {found}, and not {wanted}"
    allowed = {values["Properties"]["FunctionName"]["Ref"] for values in resources.values()
               if values["Type"] == "AWS::Lambda::Permission"}
    for name in sorted(set(functions.values()) - allowed):
        yield f"serverless.yaml: the API may not call {name}"


def cors(_tools: AwsTools, repository: Repository) -> Iterator[str]:
    """The HTTP API answers preflights in the services' place: with what they would say."""
    there = serverless(repository)["Resources"]["Api"]["Properties"]["CorsConfiguration"]
    for name, constant in (("AllowMethods", "METHODS"), ("AllowHeaders", "ALLOWED"), ("ExposeHeaders", "EXPOSED")):
        ours = re.search(rf'const {constant}: &str = "([^"]+)";', repository.cors)[1]
        if there[name] != re.split(r",[\s\\]*", ours):
            yield f"serverless.yaml: {name} differs from {constant} in shared/src/web/cors.rs"


def functions(_tools: AwsTools, repository: Repository) -> Iterator[str]:
    """What cfn-lint does not ask: that a runtime exists, what a function answers in, that the dashboard is JSON."""
    template = serverless(repository)
    common = template["Globals"]["Function"]
    for name, resource in template["Resources"].items():
        if resource["Type"] != "AWS::Serverless::Function":
            continue
        values = {**common, **resource["Properties"]}
        if values["Runtime"] not in RUNTIMES:
            yield f"serverless.yaml: {name} has the runtime {values['Runtime']}"
        if values["Timeout"] >= HTTP_API_SECONDS:
            yield f"serverless.yaml: {name} goes on when nobody waits for it any more"
        if "CodeUri" in values and Path(values["CodeUri"]).stem not in repository.bootstraps:
            yield f"serverless.yaml: nobody makes {values['CodeUri']} of {name}"
        if name in FUNCTIONS and Path(values["CodeUri"]).stem != FUNCTIONS[name][0]:
            yield f"serverless.yaml: {name} has the code {values['CodeUri']}"
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::CloudWatch::Dashboard":
            try:
                json.loads(evaluate(resource["Properties"]["DashboardBody"], template, {}))
            except ValueError as error:
                yield f"serverless.yaml: {name} is no JSON: {error}"
    sizes = set(template["Mappings"]["Sizes"])
    if sizes != set(template["Parameters"]["Environment"]["AllowedValues"]):
        yield f"serverless.yaml: there are sizes for {sorted(sizes)}"


TRANSFORM = """
import json, sys
from samtranslator.model.exceptions import InvalidDocumentException
from samtranslator.translator.transform import transform
class NoPolicies:
    def load(self):
        return {}
template = json.load(sys.stdin)
for resource in template["Resources"].values():
    for place in {"CodeUri", "ContentUri"} & set(resource.get("Properties", {})):
        resource["Properties"][place] = "s3://bucket/key"  # as it is uploaded
try:
    print(json.dumps(transform(template, {"Environment": "dev"}, NoPolicies())))
except InvalidDocumentException as error:
    sys.exit(" ".join(cause.message for cause in error.causes))
"""


def transformation(tools: AwsTools, repository: Repository) -> Iterator[str]:
    """What AWS SAM makes of its template, by its own library, is to cfn-lint's liking too."""
    ran = subprocess.run([tools.python, "-c", TRANSFORM], input=json.dumps(serverless(repository)), capture_output=True,
                         text=True, env={**os.environ, "AWS_DEFAULT_REGION": REGION})
    if ran.returncode:
        yield f"serverless.yaml: SAM says: {' '.join(ran.stderr.split())[-300:]}"
    else:
        yield from lint(tools, {"serverless.json": ran.stdout})


def environments(_tools: AwsTools, repository: Repository) -> Iterator[str]:
    """samconfig.toml says what each environment's stack wants, and nothing else; no two share anything."""
    parameters = serverless(repository)["Parameters"]
    needed = {name for name, values in parameters.items() if "Default" not in values}
    taken: dict[str, str] = {}
    for name in parameters["Environment"]["AllowedValues"]:
        # SAM reads nothing of the environment `default` when it is told another one.
        deploy = repository.environments.get(name, {}).get("deploy", {}).get("parameters", {})
        if missing := {"template_file", "region", "capabilities", "resolve_s3", "stack_name"} - set(deploy):
            yield f"samconfig.toml: {name} does not say {', '.join(sorted(missing))}"
        said = dict(each.partition("=")[::2] for each in deploy.get("parameter_overrides", []))
        if missing := needed - set(said):
            yield f"samconfig.toml: {name} lacks {', '.join(sorted(missing))}"
        if more := set(said) - set(parameters):
            yield f"samconfig.toml: {name} has {', '.join(sorted(more))}, which the template does not know"
        if said.get("Environment") != name:
            yield f"samconfig.toml: {name} deploys {said.get('Environment')}"
        for parameter, value in said.items():
            allowed = parameters.get(parameter, {}).get("AllowedValues")
            if allowed and value not in map(str, allowed):
                yield f"samconfig.toml: {name} has {parameter}={value}"
        for own in (deploy.get("stack_name", ""), said.get("Secrets", "")):
            if own and taken.setdefault(own, name) != name:
                yield f"samconfig.toml: {name} and {taken[own]} share {own}"


# --- a node's first start ---------------------------------------------------------------------------------------

STAND_INS = {
    # Metadata, the release of k3s, and the API server of another node.
    "curl": """case "$*" in
  *api/token) echo token;;
  *placement/availability-zone) echo eu-central-1a;;
  *instance-type) echo m7i.4xlarge;;
  *instance-id) echo i-0123456789abcdef0;;
  *local-ipv4) echo $OWN_ADDRESS;;
  *github.com*) while [ $# -gt 0 ]; do [ "$1" = -o ] && echo 'the release' > "$2"; shift; done;;
  *"//${RUNNING:-none}:6443/ping") echo "joined $*" >> $LOG; echo pong;;
  *) exit 2;;
esac""",
    "aws": """case "$*" in
  "secretsmanager get-secret-value"*) echo secret-token;;
  "s3api list-objects-v2"*) echo $SNAPSHOTS;;
  *) echo "aws $*" >> $LOG;;
esac""",
    "k3s": """case "$*" in
  *custom-columns*) printf "2000-01-01T00:00:00Z %s\n" i-old i-0123456789abcdef0; echo "2100-01-01T00:00:00Z i-new";;
  *) echo "k3s $*" >> $LOG;;
esac""",
    "systemctl": 'echo "systemctl $*" >> $LOG',
}
RELEASE_SHA256 = "f406618d666ff07cf9d4495e096098b9c095ee1f15420609a1da227d69b10958"  # of what curl gets


@dataclass
class Start:
    """What a node did at its first start."""
    code: int
    errors: str
    calls: list[str]
    files: dict[str, str]


def start(script: str, address: str, snapshots: int = 0, running: str = "", used: bool = False,
          action: str = "start") -> Start:
    """Runs the script with its files in a folder of ours, and with stand-ins for the programs that it calls.

    `running`: the address of a node where k3s runs; `used`: it has run on this machine as well.
    """
    with tempfile.TemporaryDirectory(prefix="microblog-node-") as name:
        folder = Path(name)
        programs = folder / "stand-ins"
        programs.mkdir()
        for program, text in STAND_INS.items():
            (programs / program).write_text(f"#!/bin/bash\nset -- \"$@\"\n{text}\n")
            (programs / program).chmod(0o755)
        etcd = ["var/lib/rancher/k3s/server/db/etcd"] if used else []
        for path in ("etc/systemd/system", "usr/local/bin", "var/lib", *etcd):
            (folder / path).mkdir(parents=True)
        moved = re.sub(r"(?<![\w/.])/(etc|usr/local|var/lib)/", rf"{folder}/\1/", script)
        ran = subprocess.run(["bash", "-c", moved, "microblog-node", action], capture_output=True, text=True, env={
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "LOG": str(folder / "log"), "OWN_ADDRESS": address,
            "SNAPSHOTS": str(snapshots), "RUNNING": running, "TMPDIR": name})
        log = folder / "log"
        files = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*")
                 if path.is_file() and programs not in path.parents}
        return Start(ran.returncode, ran.stderr, log.read_text().splitlines() if log.exists() else [],
                     {path: text.replace(f"{folder}/", "/") for path, text in files.items()})


def node_starts(tools: AwsTools, repository: Repository) -> Iterator[str]:
    """The first node begins a cluster, others join it, a snapshot is taken up, and what is wrong ends the start."""
    def script(**parameters: str) -> str:
        return properties(repository, "ec2.yaml", "NodeScript",
                          {**EC2_PARAMETERS, "K3sSha256": RELEASE_SHA256, **parameters})["Value"]

    def says(found: Start) -> str:
        return f"ended with {found.code}: {' '.join(found.errors.split())[-300:]}; it called {found.calls}"

    zones = repository.templates["ec2.yaml"]["Mappings"]["Zones"]
    addresses = {zone: values["Address"] for zone, values in zones.items()}
    first = start(script(), addresses["A"])
    if first.code:
        yield f"ec2.yaml: the first node's start {says(first)}"
        return
    yield from node_files(tools, repository, first)
    config = first.files["etc/rancher/k3s/config.yaml"]
    if "cluster-init: true" not in config or "server:" in config:
        yield "ec2.yaml: the first node does not begin a cluster"
    published = [call for call in first.calls if "put-secret-value" in call or "aws s3 cp" in call]
    if len(published) != 3:
        yield f"ec2.yaml: the first node does not publish its keys and its kubeconfig: {first.calls}"
    if any("delete node" in call for call in first.calls):
        yield "ec2.yaml: the first node deletes nodes of its own cluster"
    second = start(script(), addresses["B"], running=addresses["A"])
    if second.code or f"server: https://{addresses['A']}:6443" not in second.files.get("etc/rancher/k3s/config.yaml", ""):
        yield f"ec2.yaml: the second node does not join the first: it {says(second)}"
    moved = start(script(FirstNode="B"), addresses["A"], snapshots=1, running=addresses["B"])
    if moved.code or f"server: https://{addresses['B']}:6443" not in moved.files.get("etc/rancher/k3s/config.yaml", ""):
        yield f"ec2.yaml: with FirstNode=B the node A does not join it: it {says(moved)}"
    restored = start(script(Snapshot="taken"), addresses["A"], snapshots=1)
    if restored.code or "k3s server --cluster-reset --cluster-reset-restore-path=taken" not in restored.calls:
        yield f"ec2.yaml: a snapshot is not taken up: it {says(restored)}"
    if "k3s kubectl delete node i-old" not in restored.calls:
        yield "ec2.yaml: the machines of a snapshot stay"
    for node, what in (("i-new", "one that has just joined"), ("i-0123456789abcdef0", "itself")):
        if f"k3s kubectl delete node {node}" in restored.calls:
            yield f"ec2.yaml: the first node deletes {what}"
    for parameters in ({}, {"Snapshot": "taken"}):
        beside = start(script(**parameters), addresses["A"], running=addresses["C"])
        if not beside.code or any(call.startswith(("systemctl", "k3s")) for call in beside.calls):
            yield f"ec2.yaml: a cluster begins beside the one that runs, with {parameters}"
    again = start(script(), addresses["A"], used=True)
    if not again.code or again.calls:
        yield f"ec2.yaml: a node starts a second time: it called {again.calls}"
    refused = start(script(), addresses["A"], snapshots=1)
    if not refused.code or "systemctl enable --now --no-block k3s" in refused.calls:
        yield "ec2.yaml: a new cluster begins although there are snapshots of another one"
    upgraded = start(script(), addresses["A"], used=True, action="upgrade")
    done = [call for call in upgraded.calls if re.search("snapshot save|restart k3s|put-secret-value", call)]
    if upgraded.code or [call.split()[0] for call in done] != ["k3s", "systemctl", "aws"]:
        yield f"ec2.yaml: an upgrade does not save, restart and publish the new kubeconfig: it {says(upgraded)}"
    forged = start(script(K3sSha256="1" * 64), addresses["A"])
    if not forged.code or "usr/local/bin/k3s" in forged.files or len(forged.calls):
        yield "ec2.yaml: a release of k3s with another checksum is run"


# Where k3s has the kubelet look for whoever gives passwords of registries: in the folder of no version and no program.
PROVIDER = "var/lib/rancher/credentialprovider"
PARSE_FILES = """
import json, sys, yaml
print(json.dumps({name: list(yaml.safe_load_all(text)) for name, text in json.load(sys.stdin).items()}))
"""


def node_files(tools: AwsTools, repository: Repository, first: Start) -> Iterator[str]:
    """The files that a start writes can be read, and are as the rest relies on."""
    wanted = {"config": "etc/rancher/k3s/config.yaml",
              "charts": "var/lib/rancher/k3s/server/manifests/microblog-aws.yaml",
              "registry": f"{PROVIDER}/config.yaml"}
    ran = subprocess.run([tools.python, "-c", PARSE_FILES], capture_output=True, text=True,
                         input=json.dumps({name: first.files.get(path, "") for name, path in wanted.items()}))
    if ran.returncode:
        yield f"ec2.yaml: a file that a node writes is no YAML: {' '.join(ran.stderr.split())[-300:]}"
        return
    read_files = json.loads(ran.stdout)
    if not read_files["registry"]:
        yield f"ec2.yaml: nobody gives the kubelet ECR's password: there is no {wanted['registry']}"
        return
    config, (registry,) = read_files["config"][0], read_files["registry"]
    if set(config["disable"]) != {"traefik", "servicelb", "local-storage"}:
        yield "ec2.yaml: k3s brings a gateway, a load balancer or volumes of its own"
    # k3s keeps five snapshots in S3 by itself, whatever it keeps on the disk.
    if config.get("etcd-s3-retention") != config["etcd-snapshot-retention"]:
        yield "ec2.yaml: other snapshots are kept in the bucket than on the disk"
    bucket = evaluate({"Ref": "Backups"}, repository.templates["ec2.yaml"], {})
    if (config["etcd-s3"], config["etcd-s3-bucket"], config["etcd-s3-folder"]) != (True, bucket, "etcd"):
        yield "ec2.yaml: snapshots do not go into the folder etcd of the bucket Backups"
    arguments = dict(argument.partition("=")[::2] for argument in config["kube-apiserver-arg"])
    issuer = properties(repository, "ec2.yaml", "Identities")["Url"]
    if arguments.get("service-account-issuer") != issuer:
        yield f"ec2.yaml: the cluster's tokens are not from {issuer}, which IAM trusts"
    charts = {chart["metadata"]["name"]: chart["spec"] for chart in read_files["charts"]}
    versions = {name: chart["version"] for name, chart in charts.items()}
    if set(charts) != {"aws-ebs-csi-driver", "external-secrets"} or not all(versions.values()):
        yield f"ec2.yaml: the charts are {sorted(charts)}"
    if "secret-token" in json.dumps(read_files) or "secret-token" in " ".join(first.calls):
        yield "ec2.yaml: the join token is in a file for others, or in arguments"
    provider = registry["providers"][0]
    path = f"{PROVIDER}/bin/{provider['name']}"
    answer = subprocess.run(["bash"], input=f"aws() {{ echo password; }}\n{first.files.get(path, 'false')}",
                            capture_output=True, text=True)
    try:
        auth = json.loads(answer.stdout)["auth"]
    except ValueError:
        yield f"ec2.yaml: what asks ECR for a password says {answer.stdout!r} {answer.stderr!r}"
        return
    if auth != {provider["matchImages"][0]: {"username": "AWS", "password": "password"}}:
        yield f"ec2.yaml: the kubelet has {auth} for {provider['matchImages']}"


# --- the commands of docs/aws.md ---------------------------------------------------------------------------------

GUIDE_AWS = """#!/bin/bash
echo "$1 $2" >> $LOG
case "$1 $2" in
  "secretsmanager create-secret")
    while [ $# -gt 1 ]; do
      case $1 in --name) name=${2#*/};; --secret-string) file=${2#file://};; esac
      shift
    done
    cat "$file" > "$MADE/$name";;
  "iam create-access-key") printf 'id\\tsecret\\n';;
  "ssm get-command-invocation") echo $STATE;;
  *) echo "what $2 says";;
esac
"""


def guide(_tools: AwsTools, repository: Repository) -> Iterator[str]:
    """Its commands make each secret with its keys, and can run again; upgrade one node after the other; wait for CRDs."""
    blocks = [textwrap.dedent(block) for block in re.findall(r"^ *```sh\n(.*?)^ *```$", repository.guide, re.M | re.S)]
    with tempfile.TemporaryDirectory(prefix="microblog-guide-") as name:
        folder = Path(name)
        for path in ("bin", "made"):
            (folder / path).mkdir()
        (folder / "scripts").symlink_to(ROOT / "scripts")
        (folder / "bin" / "aws").write_text(GUIDE_AWS)
        (folder / "bin" / "aws").chmod(0o755)

        def run(script: str, state: str = "Success") -> tuple[subprocess.CompletedProcess, list[str]]:
            log = folder / "log"
            log.write_text("")
            ran = subprocess.run(["bash", "-euc", script], cwd=folder, capture_output=True, text=True, env={
                **os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "LOG": str(log),
                "MADE": str(folder / "made"), "STATE": state, "PYTHONDONTWRITEBYTECODE": "1"})
            return ran, log.read_text().splitlines()

        script = "\n".join([*(block for block in blocks if re.search("create-secret|start-session", block)), "wait"])
        for time in ("", " a second time"):
            ran, _ = run(script)
            if ran.returncode:
                yield f"docs/aws.md: secrets cannot be made{time}: {ran.stderr[-300:]}"
        made = {}
        for path in (folder / "made").iterdir():
            try:
                made[path.name] = set(json.loads(path.read_text()))
            except ValueError as error:
                yield f"docs/aws.md: {path.name} is no JSON: {error}"
        wanted = {secret: set(keys) for secret, keys in repository.known.secrets.items()}
        if made != wanted:
            yield f"docs/aws.md: the secrets are {made}, and not {wanted}"

        upgrade = "output() { echo $1; }\n" + next(block for block in blocks if "microblog-node upgrade" in block)
        one = ["ssm send-command", "ssm wait", "ssm get-command-invocation"]
        for state, nodes in (("Success", 3), ("Failed", 1)):
            called = [call for call in run(upgrade, state)[1] if call.startswith("ssm")]
            if called != one * nodes:
                yield f"docs/aws.md: an upgrade that ends with {state} calls {called}"
    before = repository.guide.partition("kubectl apply -k manifests/overlays/k3s\n")[0]
    for kind in {each["kind"] for each in repository.overlay.objects if "external-secrets.io/" in each["apiVersion"]}:
        if f"crd/{kind.lower()}s.external-secrets.io" not in before:
            yield f"docs/aws.md does not wait until the cluster knows {kind}"


CHECKS = (plain_yaml, unused, shell, agreements, trust, safety, settings, secrets, routes, cors, functions, transformation,
          environments, node_starts, guide)


# --- the faults -------------------------------------------------------------------------------------------------

# In the text, for cfn-lint: old, new, and what it says. They are all in one copy of the template.
LINTED = {
    "a name that is not there": ("Roles: [!Ref NodeRole]", "Roles: [!Ref NodeRole1]", "'NodeRole1' is not one of"),
    "an attribute": ("!GetAtt Balancer.DNSName", "!GetAtt Balancer.DnsName", "'DnsName' is not one of"),
    "a variable in a text": ("!Sub ${Backups.Arn}/etcd/*", "!Sub ${Backup.Arn}/etcd/*", "'Backup' is not one of"),
    "a variable of a script": ("k3s_version=${K3sVersion}", "k3s_version=${K3sversion}", "'K3sversion' is not one of"),
    "a dependency": ("DependsOn: NetworkInternet", "DependsOn: NetworkInternets", "'NetworkInternets' is not one of"),
    "a condition": ("!If [HasA, {Id", "!If [HasD, {Id", "'HasD' is not one of"),
    "a property": ("HealthCheckPath: /healthz", "HealthCheckURL: /healthz", "'HealthCheckURL'"),
}

Fault = Callable[[Repository], Repository]


def in_template(change: Callable[[dict], None], file: str = "ec2.yaml") -> Fault:
    def changed(repository: Repository) -> Repository:
        template = copy.deepcopy(repository.templates[file])
        change(template)
        return replace(repository, templates={**repository.templates, file: template})
    return changed


def text(old: str, new: str, file: str = "ec2.yaml") -> Fault:
    """In every text of the template, so in its scripts too."""
    def again(value):
        if isinstance(value, str):
            return value.replace(old, new)
        if isinstance(value, list):
            return [again(each) for each in value]
        return {key: again(each) for key, each in value.items()} if isinstance(value, dict) else value

    def changed(repository: Repository) -> Repository:
        template = again(repository.templates[file])
        if template == repository.templates[file]:
            raise Failed(f"{file} has no {old!r}, which scripts/check_aws.py makes a fault of")
        return replace(repository, templates={**repository.templates, file: template})
    return changed


def put(resource: str, file: str = "ec2.yaml", /, **values: object) -> Fault:
    return in_template(lambda template: template["Resources"][resource]["Properties"].update(values), file)


def in_overlay(change: Callable[[Tree], None]) -> Fault:
    def changed(repository: Repository) -> Repository:
        tree = Tree(repository.overlay.name, copy.deepcopy(repository.overlay.objects))
        change(tree)
        return replace(repository, overlay=tree)
    return changed


def anchor(repository: Repository) -> Repository:
    return replace(repository, texts={"ec2.yaml": "Resources:\n  A: &a\n    Type: AWS::EC2::VPC\n"})


def other_port(tree: Tree) -> None:
    tree.find("Service", "gateway")["spec"]["ports"][1]["nodePort"] = 30444


def other_network(tree: Tree) -> None:
    tree.find("NetworkPolicy", "gateway")["spec"]["egress"][1]["to"][0]["ipBlock"]["cidr"] = "10.1.0.0/16"


def other_secret(tree: Tree) -> None:
    tree.find("ExternalSecret", "jwt-key")["spec"]["data"][0]["remoteRef"]["key"] = "other/jwt-key"


def ssh(template: dict) -> None:
    template["Resources"]["NodeGroup"]["Properties"]["SecurityGroupIngress"].append(
        {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": "0.0.0.0/0"})


def plain_volume(template: dict) -> None:
    template["Resources"]["NodeB"]["Properties"]["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] = False


def on_serverless(change: Callable[[dict], None]) -> Fault:
    return in_template(lambda template: change(template["Resources"]), "serverless.yaml")


def variable(function: str, **values: str) -> Fault:
    return on_serverless(lambda each: each[function]["Properties"]["Environment"]["Variables"].update(values))


def of_the_relay(each: dict) -> dict:
    return each["RelayTask"]["Properties"]["ContainerDefinitions"][0]


def override(environment: str, old: str, new: str) -> Fault:
    def changed(repository: Repository) -> Repository:
        environments = copy.deepcopy(repository.environments)
        overrides = environments[environment]["deploy"]["parameters"]["parameter_overrides"]
        if old not in overrides:
            raise Failed(f"samconfig.toml has no {old} for {environment}, which scripts/check_aws.py makes a fault of")
        overrides[overrides.index(old)] = new
        return replace(repository, environments=environments)
    return changed


def unsaid(environment: str, key: str) -> Fault:
    def changed(repository: Repository) -> Repository:
        environments = copy.deepcopy(repository.environments)
        environments[environment]["deploy"]["parameters"].pop(key)
        return replace(repository, environments=environments)
    return changed


def in_guide(old: str, new: str) -> Fault:
    def changed(repository: Repository) -> Repository:
        if old not in repository.guide:
            raise Failed(f"docs/aws.md has no {old!r}, which scripts/check_aws.py makes a fault of")
        return replace(repository, guide=repository.guide.replace(old, new))
    return changed


def no_exec(repository: Repository) -> Repository:
    return replace(repository, bootstraps={
        **repository.bootstraps, "query-service": repository.bootstraps["query-service"].replace("exec ", "")})


ISSUER = "${IssuerAddress.DomainName}"
FAULTS: dict[str, tuple[Callable, Fault, str]] = {
    "an anchor": (plain_yaml, anchor, "no anchors"),
    "a parameter that nobody uses": (
        unused, in_template(lambda template: template["Parameters"].update(New={"Type": "String"})), "the parameter New"),
    "an unquoted variable": (shell, text('"node/$instance"', "node/$instance"), "SC2086"),
    "a variable that nobody sets": (shell, text("issuer_bucket=${Issuer}\n", ""), "SC2154"),
    "a script that is too long": (shell, text("state=/var", f"# {'x' * 2000}\nstate=/var"), "are allowed"),
    "another port of the node": (agreements, in_overlay(other_port), "leads from and to"),
    "a port that is closed": (agreements, put("NodeGroup", SecurityGroupIngress=[]), "let nobody in at 30443"),
    "another port of health": (agreements, put("TargetsWeb", HealthCheckPort="30082"), "for health"),
    "another network": (agreements, in_overlay(other_network), "does not reach the nodes' network"),
    "another role": (agreements, put("SecretsRole", RoleName="other"), "names microblog-secrets"),
    "another account": (agreements, text("microblog:external-secrets", "microblog:secrets"), "is not for"),
    "a secret out of reach": (agreements, in_overlay(other_secret), "may not read other/jwt-key"),
    "images out of reach": (
        agreements, in_template(lambda template: template["Parameters"]["Repositories"].update(Default="blog")),
        "may not pull"),
    "trust that is no JSON": (trust, text('ebs-csi-controller-sa"}}}]}', 'ebs-csi-controller-sa"}}}]'), "cannot be read"),
    "trust in every pod": (
        trust, text(f',\n    "{ISSUER}:sub": "system:serviceaccount:kube-system:ebs-csi-controller-sa"', ""),
        "not by audience and subject"),
    "pods as the node": (
        safety, put("NodeA", MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 2}),
        "can take the role"),
    "a plain volume": (safety, in_template(plain_volume), "is not encrypted"),
    "SSH": (safety, in_template(ssh), "lets the world in at 22"),
    "a public bucket": (safety, put("Backups", PublicAccessBlockConfiguration={}), "may become public"),
    "backups that go": (
        safety, in_template(lambda template: template["Resources"]["Backups"].update(DeletionPolicy="Delete")),
        "goes with the stack"),
    "backups that end": (
        safety, put("Backups", LifecycleConfiguration={"Rules": [{"ExpirationInDays": 90}]}), "end by their age"),
    "a node that nobody waits for": (
        safety, in_template(lambda template: template["Resources"]["NodeC"].pop("CreationPolicy")), "does not wait"),
    "a variable that nobody reads": (settings, variable("QueryFunction", PARTITION="8"), "PARTITION, which nobody reads"),
    "a bootstrap's variable": (
        settings, on_serverless(lambda each: each["CommandFunction"]["Properties"]["Environment"]["Variables"].pop(
            "JWT_PRIVATE_KEY")), "lacks JWT_PRIVATE_KEY"),
    "a bootstrap that stays": (settings, no_exec, "does not become the API"),
    "another port of a service": (settings, variable("CommandFunction", AWS_LWA_PORT="8082"), "COMMAND_ADDR has 8081"),
    "another path of readiness": (
        settings, variable("CommandFunction", AWS_LWA_READINESS_CHECK_PATH="/ready"), "whether it is ready"),
    "a worker's setting": (
        settings, on_serverless(lambda each: of_the_relay(each)["Environment"].append({"Name": "REPLICAS"})),
        "REPLICAS, which is no setting"),
    "a worker's role": (
        settings, on_serverless(lambda each: of_the_relay(each).update(Command=["--role", "relays"])),
        "has the arguments"),
    "a secret's key": (
        secrets, text("SecretString:uri", "SecretString:url", "serverless.yaml"), "no url of mongodb-credentials"),
    "a secret that a worker may not read": (
        secrets, text("nats-credentials-??????", "nats-??????", "serverless.yaml"), "may not read nats-credentials"),
    "a route": (routes, put("Keys", "serverless.yaml", RouteKey="GET /.well-known/jwks"), "the routes are"),
    "a function that the API may not call": (
        routes, on_serverless(lambda each: each.pop("QueriesAllowed")), "may not call QueryFunction"),
    "a header that pages may not see": (cors, text("retry-after", "retry", "serverless.yaml"), "ExposeHeaders differs"),
    "a runtime": (functions, put("NoStreams", "serverless.yaml", Runtime="python3.31"), "has the runtime python3.31"),
    "code of the other one": (
        functions, put("QueryFunction", "serverless.yaml", CodeUri="../../target/lambda/command-service.zip"),
        "has the code"),
    "a function that is too slow": (functions, put("QueryFunction", "serverless.yaml", Timeout=30), "nobody waits"),
    "a dashboard": (functions, text('{"widgets": [', '{"widgets": ', "serverless.yaml"), "is no JSON"),
    "a function without code": (
        transformation, on_serverless(lambda each: each["QueryFunction"]["Properties"].pop("CodeUri")), "SAM says"),
    "a parameter that is missing": (environments, override("prod", "Environment=prod", "Origins=x"), "lacks Environment"),
    "a parameter of no template": (environments, override("dev", "StreamReplicas=1", "Replicas=1"), "has Replicas"),
    "a value that is not allowed": (
        environments, override("dev", "StreamReplicas=1", "StreamReplicas=2"), "StreamReplicas=2"),
    "secrets of another environment": (
        environments, override("prod", "Secrets=microblog-prod", "Secrets=microblog-staging"), "share microblog-staging"),
    "a first node that joins": (
        node_starts, text('= "$first_address" ]; then\n    echo', '!= "$first_address" ]; then\n    echo'),
        "does not begin a cluster"),
    "a file that is no YAML": (node_starts, text("servicelb, local-storage]", "servicelb"), "is no YAML"),
    "another issuer": (node_starts, text("account-issuer=$issuer", "account-issuer=$issuer/"), "which IAM trusts"),
    "no checksum": (
        node_starts, text('echo "$k3s_sha256  $file" | sha256sum --check --quiet', "true"), "another checksum is run"),
    "no guard": (node_starts, text("    exit 1\n", ""), "although there are snapshots"),
    "all machines forgotten": (
        node_starts, text("$made < $began && ", ""), "one that has just joined"),
    "itself forgotten": (node_starts, text(' && $name != "$instance"', ""), "deletes itself"),
    "machines forgotten without a snapshot": (
        node_starts, text('if [ -n "$snapshot" ]; then forget', "if true; then forget"), "of its own cluster"),
    "a second cluster": (node_starts, text("//$other:6443", "//$other:6444"), "beside the one that runs"),
    "an old kubeconfig": (
        node_starts, text('if [ "$own_address" = "$first_address" ]; then publish; fi', ":"), "an upgrade does not"),
    "a second start": (node_starts, text("server/db/etcd ]", "server/db/other ]"), "starts a second time"),
    "a secret's file in the folder": (
        guide, in_guide(".data/kubeconfig-aws", ".data/aws/kubeconfig"), "cannot be made a second time"),
    "a secret that nobody makes": (guide, in_guide(".data/aws/*-*/", ".data/aws/*-c*/"), "the secrets are"),
    "all nodes at once": (guide, in_guide('[ "$state" = Success ] || break', ":"), "ends with Failed"),
    "a kind that is not there yet": (guide, in_guide(" crd/secretstores.external-secrets.io", ""), "knows SecretStore"),
    "a worker's old secrets": (
        secrets, on_serverless(lambda each: of_the_relay(each).pop("DockerLabels")), "RelayTask stays with old secrets"),
    "a function's old secrets": (
        secrets, on_serverless(lambda each: each["QueryFunction"]["Properties"].pop("Description")),
        "QueryFunction stays with old secrets"),
    "an environment without its template": (environments, unsaid("prod", "template_file"), "does not say template_file"),
    "no snapshot": (node_starts, text('restore-path="$snapshot"', "restore-path="), "is not taken up"),
    "a token for everybody": (
        node_starts, text("token-file: /etc/rancher/k3s/token", "token: $(cat /etc/rancher/k3s/token)"),
        "the join token is in"),
    "a registry's password that nobody asks for": (
        node_starts, text("provider=/var/lib/rancher/", "provider=/var/lib/rancher/k3s/"), "nobody gives the kubelet"),
    "snapshots that go": (node_starts, text("etcd-s3-retention: 48\n", ""), "other snapshots are kept"),
    "a read of the top": (routes, put("ReadsTop", "serverless.yaml", RouteKey="POST /"), "the routes are"),
    "a registry's answer": (node_starts, text('"Registry", "auth"', '"Registry" "auth"'), "asks ECR"),
}


def blind(tools: AwsTools, repository: Repository) -> Iterator[str]:
    """A check that has never failed proves nothing: the checks that do not find their fault."""
    faulty = repository.texts["ec2.yaml"]
    for name, (old, new, _) in LINTED.items():
        if old not in faulty:
            raise Failed(f"ec2.yaml has no {old!r}, which scripts/check_aws.py makes a fault of")
        faulty = faulty.replace(old, new)
    found = lint(tools, {"faulty.yaml": faulty})
    yield from (f"cfn-lint does not find “{name}”" for name, (*_, says) in LINTED.items()
                if not any(says in line for line in found))
    for name, (check, fault, says) in FAULTS.items():
        if not any(says in problem for problem in check(tools, fault(repository))):
            yield f"the check “{name}” does not find the fault that it is tried with"


if __name__ == "__main__":
    sys.exit(supervised(main))
