"use strict";
const find = selector => document.querySelector(selector);
const form = find("form"), section = find("section"), failure = find("[role=alert]");
const inputs = [...document.querySelectorAll(".drop input")];
const shown = {photograph: find(".photograph")};
for (const name of ["before", "after", "changes"]) shown[name] = find(`.layer.${name} img`);
let limits = {}, asked = null, links = [];

fetch("status").then(answer => answer.json()).then(status => {
  limits = status;
  find("#status").textContent = `${status.weights} on ${status.device}, segfix ${status.version}.`;
}).catch(() => {});

function fail(text) {
  failure.textContent = text;
  failure.hidden = !text;
}

// Files

const hints = inputs.map(input => input.parentElement.querySelector(".name").textContent);

function show(input) {
  const drop = input.parentElement, [file] = input.files, picture = drop.querySelector("img");
  drop.querySelector(".name").textContent = file ? file.name : hints[inputs.indexOf(input)];
  drop.classList.toggle("full", Boolean(file));
  if (!picture) return; // the ids of a mask would look black
  if (picture.src) URL.revokeObjectURL(picture.src);
  picture.hidden = true;
  picture.removeAttribute("src");
  if (file) {
    picture.onload = () => { picture.hidden = false; };
    picture.src = URL.createObjectURL(file);
  }
}

function put(input, file) {
  const list = new DataTransfer();
  list.items.add(file);
  input.files = list.files;
  show(input);
}

// Of two files dropped at once, JPEG is the photograph, and what no browser shows is the mask.
function likelihood(file) {
  return /\.(jpe?g|heic|bmp)$/i.test(file.name) ? 1 : file.type.startsWith("image/") ? 0 : -1;
}

inputs.forEach(input => {
  input.addEventListener("change", () => show(input));
  show(input); // browsers keep the files over a reload
});
const over = target => inputs.forEach(input =>
  input.parentElement.classList.toggle("over", target !== null && (!target || target === input.parentElement)));
const zone = event => event.target instanceof Element ? event.target.closest(".drop") : null;
document.addEventListener("dragover", event => { event.preventDefault(); over(zone(event) || undefined); });
document.addEventListener("dragleave", event => { if (!event.relatedTarget) over(null); });
document.addEventListener("drop", event => {
  event.preventDefault();
  over(null);
  const files = [...event.dataTransfer.files];
  if (files.length === 2) {
    files.sort((a, b) => likelihood(b) - likelihood(a)).forEach((file, place) => put(inputs[place], file));
  } else if (files.length === 1) {
    const drop = zone(event);
    const guess = inputs.find(input => !input.files.length) || inputs[likelihood(files[0]) > 0 ? 0 : 1];
    put(drop ? drop.querySelector("input") : guess, files[0]);
  } else if (files.length) fail("Drop one photograph and one mask.");
});

// Settings

const number = find("[name=scale]");
const choose = () => { number.hidden = number.disabled = find("#rule").value === "auto"; };
find("#rule").addEventListener("change", choose);
choose();

// Answers

form.addEventListener("submit", async event => {
  event.preventDefault();
  if (asked) asked.abort();
  const mine = asked = new AbortController(), button = find("button.main");
  fail("");
  section.hidden = true;
  find("#busy").textContent = "Looking at the photograph …";
  button.disabled = true;
  try {
    const body = new FormData(form);
    const bytes = ["image", "prediction"].reduce((sum, name) => sum + body.get(name).size, 0);
    if (bytes > limits.max_bytes) throw new Error(`The files have more than the ${limits.max_bytes} bytes allowed.`);
    const answer = await fetch("fix", {method: "POST", body, signal: mine.signal, headers: {accept: "multipart/form-data"}});
    if (!answer.ok) {
      const told = await answer.json().catch(() => null);
      throw new Error(told ? told.error : `The server answers ${answer.status}.`);
    }
    await present(await answer.formData());
  } catch (error) {
    if (mine !== asked) return;
    fail(error instanceof TypeError ? "The server doesn't answer; is segfix serve still running?" : error.message);
  } finally {
    if (mine === asked) {
      find("#busy").textContent = "";
      button.disabled = false;
    }
  }
});

async function present(parts) {
  const report = JSON.parse(await parts.get("report").text?.() ?? parts.get("report"));
  links.forEach(link => URL.revokeObjectURL(link));
  links = [];
  const link = name => { links.push(URL.createObjectURL(parts.get(name))); return links.at(-1); };
  for (const [name, picture] of Object.entries(shown)) picture.src = link(name);
  const download = find("a[download]"), file = parts.get("result");
  download.href = link("result");
  download.download = file.name;
  download.textContent = `Download ${file.name}`;
  find("#told").textContent = `${(100 * report.share).toFixed(2)} % of the pixels changed.`;
  find(".stage").style.setProperty("--ratio", `${report.width}/${report.height}`);
  const reduced = report.width < report.of[0];
  find("#size").textContent = reduced ? `Pictures reduced from ${report.of[0]}×${report.of[1]} to ${report.width}×${report.height}; the file isn't.` : "";
  find(".legend").replaceChildren(...report.ids.map(([name, colour]) => {
    const row = document.createElement("li"), swatch = document.createElement("i");
    swatch.style.background = colour;
    row.append(swatch, name);
    return row;
  }), ...report.more_ids ? [Object.assign(document.createElement("li"), {textContent: `and ${report.more_ids} more`})] : []);
  await Promise.all(Object.values(shown).map(picture => picture.decode().catch(() => {})));
  section.hidden = false;
  section.scrollIntoView({block: "nearest", behavior: matchMedia("(prefers-reduced-motion:reduce)").matches ? "auto" : "smooth"});
}
