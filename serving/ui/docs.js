// The OpenAPI document as a page: a list of contents, and a folded part for each operation and each type.

import { $, make } from "./elements.js";

const api = await (await fetch("/openapi.json")).json();
const { schemas } = api.components;
const nameOf = (schema) => schema.$ref?.split("/").at(-1);
const resolved = (schema) => schemas[nameOf(schema)] ?? schema;

function element(tag, properties, ...children) {
  const made = make(tag, properties);
  made.append(...children);
  return made;
}

/** Nodes of a text, in which `quoted` parts are code. */
function prose(text = "") {
  return text.split("`").map((part, index) => (index % 2 ? make("code", { textContent: part }) : part));
}

/** Nodes that say which values a schema takes; names of types are links. */
function typeOf(schema) {
  if (schema.$ref) return [make("a", { href: `#${nameOf(schema)}`, textContent: nameOf(schema) })];
  if (schema.const !== undefined) return [JSON.stringify(schema.const)];
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" or ")];
  const choices = (schema.anyOf ?? schema.oneOf)?.filter(({ type }) => type !== "null");
  if (choices) return choices.flatMap((choice, index) => [...(index ? [" or "] : []), ...typeOf(choice)]);
  if (schema.prefixItems) return [`${schema.prefixItems.length} numbers`];
  if (schema.type === "array") return ["array of ", ...typeOf(schema.items ?? {})];
  return [schema.format === "binary" ? "file" : (schema.type ?? "anything")];
}

function rangeOf(low, high, unit = "") {
  if (low === undefined && high === undefined) return [];
  if (low === undefined) return [`at most ${numeral(high)}${unit}`];
  return [high === undefined ? `at least ${numeral(low)}${unit}` : `${numeral(low)} to ${numeral(high)}${unit}`];
}

function numeral(value) {
  return value > Number.MAX_SAFE_INTEGER ? `2^${Math.round(Math.log2(value))} − 1` : value.toLocaleString("en");
}

/** What holds for a field's values: ranges, lengths, the default. */
function limitsOf(field) {
  const all = Object.assign({}, ...(field.anyOf ?? []), field);
  const above = all.exclusiveMinimum === undefined ? [] : [`more than ${numeral(all.exclusiveMinimum)}`];
  const value = typeof field.default === "number" ? numeral(field.default) : JSON.stringify(field.default ?? null);
  const byDefault = value === "null" || field.const !== undefined ? [] : [`default ${value}`];
  return [
    ...above, ...rangeOf(all.minimum, all.maximum), ...rangeOf(all.minLength, all.maxLength, " characters"),
    ...(all.prefixItems ? [] : rangeOf(all.minItems, all.maxItems, " items")), ...byDefault,
  ];
}

/** A schema's fields: the required ones first, those without effect last. */
function fieldList(schema, required = schema.required ?? []) {
  const rank = ([name, field]) => (required.includes(name) ? 0 : field.description === "Without effect." ? 2 : 1);
  const rows = Object.entries(schema.properties ?? {}).sort((a, b) => rank(a) - rank(b));
  return element("dl", { className: "fields" }, ...rows.flatMap(([name, field]) => {
    const mark = required.includes(name) ? [" ", make("strong", { textContent: "required" })] : [];
    const type = element("span", { className: "type" }, ...typeOf(field), ...limitsOf(field).map((limit) => `, ${limit}`));
    const text = field.description ?? field.items?.description;
    return [
      element("dt", {}, make("code", { textContent: name }), ...mark),
      element("dd", {}, type, ...(text ? [element("p", {}, ...prose(text))] : [])),
    ];
  }));
}

function folded(id, summary, ...children) {
  return element("details", { id }, element("summary", {}, ...summary), ...children);
}

/** The forms that an operation's body can have, each as a heading and its fields. */
function bodies(operation) {
  return Object.entries(operation.requestBody?.content ?? {}).flatMap(([media, { schema }]) =>
    (schema.oneOf ?? [schema]).flatMap((each) => {
      const body = resolved(each);
      const title = element("h4", {}, `${nameOf(each) ?? "Form"}, as `, make("code", { textContent: media }));
      return [title, ...(body.description ? [element("p", {}, ...prose(body.description))] : []),
        fieldList(body, [...(each.required ?? []), ...(body.required ?? [])])];
    }));
}

function answers(operation) {
  const [status, { content = {} }] = Object.entries(operation.responses).find(([code]) => code.startsWith("2"));
  const kinds = Object.entries(content).flatMap(([media, { schema }], index) => {
    const type = schema.$ref ? [...typeOf(schema), ", as "] : [];
    return [...(index ? [" or "] : []), ...type, make("code", { textContent: media })];
  });
  return element("p", {}, `Answers with status ${status}: `, ...kinds);
}

function operationPart(path, method, operation) {
  const places = (operation.parameters ?? []).map(({ name, schema }) => [name, schema]);
  const parameters = { properties: Object.fromEntries(places), required: places.map(([name]) => name) };
  const title = [make("code", { textContent: `${method.toUpperCase()} ${path}` }), element("span", {}, ...prose(operation.description))];
  return folded(operation.operationId, title, fieldList(parameters), ...bodies(operation), answers(operation));
}

function section(title, ...parts) {
  const [id, links] = [title.toLowerCase(), parts.filter((part) => part.id)];
  const entries = links.map((part) => element("li", {}, make("a", { href: `#${part.id}`, textContent: part.querySelector("code").textContent })));
  $("contents").append(element("h2", {}, make("a", { href: `#${id}`, textContent: title })), element("ul", {}, ...entries));
  $("operations").append(element("section", { id }, make("h2", { textContent: title }), ...parts));
}

function openChosen() {
  const chosen = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (chosen instanceof HTMLDetailsElement) chosen.open = true;
  chosen?.scrollIntoView();
}

const operations = Object.entries(api.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ tag: operation.tags[0], part: operationPart(path, method, operation) })));
for (const tag of new Set(operations.map((each) => each.tag))) {
  section(tag[0].toUpperCase() + tag.slice(1), ...operations.filter((each) => each.tag === tag).map((each) => each.part));
}

const errors = Object.entries(api.paths["/v1/jobs"].post.responses).filter(([status]) => status >= "400");
section(
  "Errors",
  element("p", {}, "Every error is an ", ...typeOf({ $ref: "ErrorAnswer" }), "."),
  element("dl", { className: "fields" }, ...errors.flatMap(([status, { description }]) =>
    [element("dt", {}, make("code", { textContent: status })), element("dd", {}, ...prose(description))])),
);
const types = Object.entries(schemas).filter(([name]) => !name.endsWith("ValidationError"));
section("Types", ...types.map(([name, schema]) =>
  folded(name, [make("code", { textContent: name })], element("p", {}, ...prose(schema.description)), fieldList(schema))));

addEventListener("hashchange", openChosen);
openChosen();
