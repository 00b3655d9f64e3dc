// What the tests ask of a timeline page; they append this to it.

const later = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const tap = (button, pointerType) => {
  button.dispatchEvent(new PointerEvent("pointerdown", { pointerType, bubbles: true }));
  button.click();
};

const questions = {
  /** The heat of every frame and picture as levels of gray. */
  heat() {
    byId("colours").value = "gray";
    byId("fade").checked = false;
    recolour();
    const levels = (context) => {
      const pixels = context.getImageData(0, 0, data.size[1], data.size[0]).data;
      return Array.from({ length: pixels.length / 4 }, (_, k) => pixels[4 * k]);
    };
    return data.steps.map((_, frame) => { show(frame); return tiles.map((tile) => levels(tile.context)); });
  },

  /** The first picture with its heat as the browser lays it on. */
  async blend(opacity, fade) {
    show(1);
    byId("opacity").value = opacity;
    byId("fade").checked = fade;
    byId("colours").value = "turbo";
    recolour();
    restyle();
    const [image, canvas] = tiles[0].button.children;
    await image.decode();
    const sum = document.createElement("canvas");
    [sum.height, sum.width] = data.size;
    const context = sum.getContext("2d");
    context.drawImage(image, 0, 0);
    context.globalAlpha = Number(getComputedStyle(canvas).opacity);
    context.drawImage(canvas, 0, 0);
    return Array.from(context.getImageData(0, 0, data.size[1], data.size[0]).data);
  },

  keys() {
    const told = [];
    const note = () => told.push([state.frame, byId("slider").value, byId("step").textContent, state.playing]);
    const press = (key, on = document.body) => {
      on.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      note();
    };
    note();
    ["End", "ArrowLeft", "ArrowRight", "ArrowRight", "Home", "ArrowLeft", "PageDown", " ", " "].forEach((key) => press(key));
    press("End", byId("speed"));
    byId("slider").value = 3;
    byId("slider").dispatchEvent(new Event("input"));
    note();
    return told;
  },

  plays() {
    const told = [state.playing];
    pause();
    show(0);
    play();
    pause();
    last = 0;
    const after = (seconds) => { tick(1000 * seconds); told.push(state.frame); };
    [0.09, 0.11, 0.25, 60].forEach(after);
    byId("speed").value = "2";
    byId("speed").dispatchEvent(new Event("change"));
    [60.06, 61.9, 62.1].forEach(after);
    pause();
    return told;
  },

  async curves() {
    await later(300);
    show(4);
    const [first, second] = charts, box = first.plot.getBoundingClientRect();
    const at = { clientX: box.left + first.x(22), clientY: box.top + 20, bubbles: true, pointerId: 1, button: 0 };
    const found = charts.map((chart) => ({
      title: chart.box.querySelector("h2").textContent,
      legend: chart.legend.textContent,
      raw: chart.plot.querySelectorAll("path.raw").length,
      main: chart.plot.querySelectorAll("path.main").length,
      cursor: Math.abs(chart.cursor?.getAttribute("x1") - chart.x(40)) < 0.01,
      spoken: chart.svg?.getAttribute("aria-label"),
    }));
    first.plot.dispatchEvent(new PointerEvent("pointermove", at));
    const tip = first.tip.hidden ? "" : first.tip.textContent;
    first.plot.setPointerCapture = () => {}; // no real pointer is down
    first.plot.dispatchEvent(new PointerEvent("pointerdown", at));
    const jumped = state.frame;
    first.plot.dispatchEvent(new PointerEvent("pointerleave", at));
    show(6);
    const path = second.plot.querySelector("path.main").getAttribute("d");
    return { found, tip, jumped, left: first.tip.hidden, path, lost: first.legend.textContent };
  },

  async fitted() {
    await later(50);
    const boxes = tiles.map((tile) => tile.figure.getBoundingClientRect());
    const middles = boxes.map((box) => box.left + box.width / 2);
    return { about: byId("about").textContent, tile: boxes[0].width, middles };
  },

  tiles() {
    const told = {}, panes = () => [byId("montage").hidden, byId("zoom").hidden];
    const read = ({ figure }) => [figure.classList.contains("wrong"), figure.querySelector("figcaption").textContent];
    told.captions = data.steps.map((_, frame) => { show(frame); return tiles.map(read); });
    told.spoken = tiles[0].button.getAttribute("aria-label");
    tap(tiles[1].button, "touch");
    told.bare = tiles.map((tile) => getComputedStyle(tile.canvas).visibility);
    tap(tiles[1].button, "touch");
    told.again = getComputedStyle(tiles[1].canvas).visibility;
    tap(tiles[1].button, "mouse");
    told.zoomed = [...panes(), byId("zoomed").textContent, byId("pair").querySelectorAll("canvas").length];
    byId("after").click();
    byId("after").click();
    told.round = state.zoomed;
    document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
    told.back = panes();
    told.themes = [document.documentElement.dataset.theme];
    byId("theme").click();
    told.themes.push(document.documentElement.dataset.theme);
    const outline = tiles[0].button.querySelector(".outline");
    told.outline = [getComputedStyle(outline).display];
    byId("outline").click();
    told.outline.push(getComputedStyle(outline).display);
    return told;
  },

  async seen() {
    await later(500);
    return {
      about: byId("about").textContent,
      title: document.title,
      heading: document.querySelector("h1").textContent,
      charts: charts.map((chart) => [chart.plan.title, chart.svg !== undefined, chart.legend.textContent]),
      hidden: ["stage", "epochbox", "outlined", "more"].filter((id) => byId(id).hidden),
      disabled: byId("play").disabled,
      names: tiles.map((tile) => tile.figure.querySelector(".name").textContent),
      step: data.steps[state.frame],
      playing: state.playing,
      theme: document.documentElement.dataset.theme,
      colours: byId("colours").value,
      tile: tiles[0]?.button.getBoundingClientRect().width,
      wider: document.documentElement.scrollWidth > innerWidth,
      taller: document.documentElement.scrollHeight > innerHeight,
    };
  },
};
