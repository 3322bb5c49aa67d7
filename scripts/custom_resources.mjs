// Validates custom resources, a JSON array of them on stdin, with the schemas of @kubernetes-models in the folder that is
// the argument. Prints a JSON array: for each resource, what is wrong with it.
//
// The schemas refuse wrong types and missing fields, not unknown fields. Which fields are known shows by which of them a
// schema looks at.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder] = process.argv.slice(2);
// Where a package's schemas of a group and version are.
const PACKAGES = {
  "gateway.networking.k8s.io/v1": ["gateway-api", "IoK8sSigsGatewayApiApisV1"],
  "traefik.io/v1alpha1": ["traefik", "ComGithubTraefikTraefikV3PkgProviderKubernetesCrdTraefikioV1alpha1"],
  "external-secrets.io/v1": ["external-secrets", "ComGithubExternalSecretsExternalSecretsApisExternalsecretsV1"],
};

async function schema({ apiVersion, kind }) {
  const [name, prefix] = PACKAGES[apiVersion] ?? [];
  if (!name) return null;
  const schemas = join(folder, "node_modules", "@kubernetes-models", name, "_schemas");
  const file = `${prefix}${kind}.js`;
  if (!readdirSync(schemas).includes(file)) return null;
  return (await import(pathToFileURL(join(schemas, file)))).validate;
}

// The same value, which notes the path of each field that somebody looks at.
function observed(value, path, seen) {
  if (typeof value !== "object" || value === null) return value;
  return new Proxy(value, {
    get(target, key) {
      if (typeof key === "symbol" || !Object.hasOwn(target, key)) return target[key];
      seen.add(`${path}/${key}`);
      return observed(target[key], `${path}/${key}`, seen);
    },
  });
}

function* fields(value, path) {
  if (typeof value !== "object" || value === null) return;
  for (const [key, item] of Object.entries(value)) {
    yield `${path}/${key}`;
    yield* fields(item, `${path}/${key}`);
  }
}

async function faults(resource) {
  const validate = await schema(resource);
  if (!validate) return [`no schema of ${resource.kind} in ${resource.apiVersion}`];
  const seen = new Set();
  if (!validate(observed(resource, "", seen))) {
    return validate.errors.map(({ instancePath, keyword, params }) => `${instancePath}: ${keyword} ${JSON.stringify(params)}`);
  }
  // What is inside of a field that is not looked at is not looked at either: the first says it.
  const unknown = [...fields(resource, "")].filter((field) => !seen.has(field));
  return unknown.slice(0, 1).map((field) => `${field}: no such field`);
}

const resources = JSON.parse(readFileSync(0, "utf8"));
const found = [];
for (const resource of resources) found.push(await faults(resource));
console.log(JSON.stringify(found));
