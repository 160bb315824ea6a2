// The OpenAPI document as a page.

import { make } from "./pictures.js";

const api = await (await fetch("/openapi.json")).json();

const resolve = (schema) => (schema?.$ref ? api.components.schemas[schema.$ref.split("/").at(-1)] : schema);

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf ?? schema.oneOf) return (schema.anyOf ?? schema.oneOf).map(typeOf).join(" | ");
  return schema.type === "array" ? `array of ${typeOf(schema.items ?? {})}` : (schema.type ?? "any");
}

function parameters(schema) {
  const table = make("table", {});
  const required = new Set(schema.required ?? []);
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    const row = table.insertRow();
    const bounds = ["minimum", "maximum", "maxLength", "maxItems"].filter((key) => field[key] !== undefined).map((key) => `${key} ${field[key]}`);
    const byDefault = field.default === undefined || field.default === null ? [] : [`default ${JSON.stringify(field.default)}`];
    const notes = [...(required.has(name) ? ["required"] : []), ...byDefault, ...bounds, ...(field.description ? [field.description] : [])];
    row.insertCell().append(make("code", { textContent: name }));
    row.insertCell().textContent = typeOf(field);
    row.insertCell().textContent = notes.join("; ");
  }
  return table;
}

for (const [path, methods] of Object.entries(api.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    const article = make("article", {});
    const title = make("h2", {});
    title.append(make("code", { textContent: `${method.toUpperCase()} ${path}` }));
    article.append(title, make("p", { textContent: operation.description ?? operation.summary }));
    for (const [kind, { schema }] of Object.entries(operation.requestBody?.content ?? {})) {
      for (const each of schema.oneOf ?? [schema]) {
        article.append(make("p", { className: "label", textContent: `${kind}: ${each.$ref?.split("/").at(-1) ?? "form"}` }), parameters(resolve(each)));
      }
    }
    document.getElementById("operations").append(article);
  }
}
