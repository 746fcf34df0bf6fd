"use strict";
const main = document.querySelector("main");
document.querySelector("#here").textContent = new URL("./", location).href;

function add(tag, text, parent = main) {
  const element = document.createElement(tag);
  element.textContent = text;
  parent.append(element);
  return element;
}

function table(title, rows) {
  add("h3", title);
  const list = add("dl", "");
  for (const [name, text] of rows) {
    add("dt", name, list);
    add("dd", text, list);
  }
}

function kind(schema) {
  const one = part => part.const ?? (part.enum ? part.enum.filter(Boolean).join(" or ") : [
    part.contentMediaType ? "file" : [part.type].flat().join(" or "),
    part.maximum === undefined ? "" : `${part.minimum} … ${part.maximum}`,
  ].filter(Boolean).join(" "));
  const text = (schema.anyOf || [schema]).map(one).join(" or ");
  return schema.default === undefined || schema.default === "" ? text : `${text}, ${schema.default} unless given`;
}

fetch("openapi.json").then(answer => answer.json()).then(api => {
  add("p", api.info.description);
  for (const [path, methods] of Object.entries(api.paths))
    for (const [method, operation] of Object.entries(methods)) {
      add("h2", `${method.toUpperCase()} ${path}`);
      add("p", `${operation.summary}.`);
      const schema = operation.requestBody?.content["multipart/form-data"].schema;
      if (schema)
        table("Form fields", Object.entries(schema.properties).map(([name, field]) =>
          [name, `${kind(field)}${schema.required.includes(name) ? ", required" : ""}. ${field.description}`]));
      table("Answers", Object.entries(operation.responses).map(([status, answer]) => [status, answer.description]));
      const fields = operation.responses[200].content["application/json"]?.schema.properties;
      if (fields) table("Fields of the answer", Object.entries(fields).map(([name, field]) => [name, [kind(field), field.description].filter(Boolean).join(". ")]));
    }
});
