for (const input of document.querySelectorAll(".stage input")) {
  const move = () => {
    input.parentElement.style.setProperty("--x", input.value + "%");
    input.setAttribute("aria-valuetext", Math.round(input.value) + " %");
  };
  input.addEventListener("input", move);
  move(); // browsers keep the place over a reload
}
