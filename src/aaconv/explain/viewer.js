// Shows what attention looks at from a point of an image: in the report, from maps inside the page; in the page of
// `aaconv explore`, from maps that the server computes. The data are described in packing.py.
//
// mountViewer(root, scenes, ask, parts): scenes are [{name, networks: [...]}]; ask(scene, point, part) gives or promises,
// for each network and layer, {maps: Uint8Array, peaks: Float32Array} of the heads, or null; parts are the parts of the
// logits that ask knows.
function mountViewer(root, scenes, ask, parts = ["both"]) {
  const ATTENDED = [230, 159, 0], QUERY = "#56B4E9", MEAN = -1; // told apart by colour-blind readers
  const state = { scene: 0, point: [0.5, 0.5], part: parts[0], strength: 0.85, view: "heads" };
  const scene = () => scenes[state.scene];
  const columns = () => scene().networks;
  let chosen = [], answers = null, pictures = [], busy = false, again = false;

  const make = (tag, { marks = {}, ...properties } = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    for (const [name, value] of Object.entries(marks)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const labelled = (text, control) => make("label", {}, text + " ", control);
  const choice = (options, change) => {
    const node = make("select", { onchange: () => change(Number(node.value)) });
    options.forEach(([value, text]) => node.append(make("option", { value, textContent: text })));
    return node;
  };

  // --- numbers ---
  const cellOf = (layer) => {
    const [x, y] = state.point;
    return [Math.min(Math.floor(y / layer.cell[0]), layer.grid[0] - 1), Math.min(Math.floor(x / layer.cell[1]), layer.grid[1] - 1)];
  };
  const weightsOf = (n, l, head) => {
    const layer = columns()[n].layers[l], found = answers?.[n]?.[l];
    if (!found) return null;
    const size = layer.grid[0] * layer.grid[1], weights = new Float32Array(size);
    const heads = head === MEAN ? [...Array(layer.heads).keys()] : [head];
    for (const h of heads) {
      for (let i = 0; i < size; i++) weights[i] += (found.maps[h * size + i] / 255) * found.peaks[h] / heads.length;
    }
    return weights;
  };
  const strongest = (weights) => weights.reduce((best, value, i) => (value > weights[best] ? i : best), 0);
  const headName = (head) => (head === MEAN ? "mean of the heads" : `head ${head + 1}`);
  const tell = (n, l, head) => {
    const layer = columns()[n].layers[l], weights = weightsOf(n, l, head);
    if (!weights) return `${layer.name}, ${headName(head)}: nothing of that part`;
    const best = strongest(weights), width = layer.grid[1];
    return `${layer.name}, ${headName(head)}: most at row ${Math.floor(best / width) + 1}, column ${(best % width) + 1}, ${(100 * weights[best]).toFixed(1)}%`;
  };

  // --- drawing ---
  const tint = (weights, [height, width]) => {
    const small = make("canvas", { width, height }), context = small.getContext("2d"), data = context.createImageData(width, height);
    const most = Math.max(weights[strongest(weights)], 1e-30);
    weights.forEach((value, i) => data.data.set([...ATTENDED, Math.round(255 * state.strength * value / most)], 4 * i));
    context.putImageData(data, 0, 0);
    return small;
  };
  const paint = (canvas, n, weights, shape, query) => {
    const context = canvas.getContext("2d"), { width, height } = canvas;
    context.imageSmoothingEnabled = false;
    context.clearRect(0, 0, width, height);
    if (pictures[n].complete) context.drawImage(pictures[n], 0, 0, width, height);
    if (weights) context.drawImage(tint(weights, shape.grid), 0, 0, width * shape.grid[1] * shape.cell[1], height * shape.grid[0] * shape.cell[0]);
    if (!query) return;
    const [row, column] = cellOf(shape), line = Math.max(1.5, width / 120);
    context.strokeStyle = QUERY;
    context.lineWidth = line;
    context.strokeRect(column * shape.cell[1] * width, row * shape.cell[0] * height, shape.cell[1] * width, shape.cell[0] * height);
  };
  const canvasFor = (n, width) => {
    const [height, across] = columns()[n].size;
    return make("canvas", { width, height: Math.max(1, Math.round(width * height / across)) });
  };
  const drawBoxes = (canvas, network) => {
    const context = canvas.getContext("2d"), scale = canvas.width / network.size[1];
    context.font = "14px system-ui, sans-serif";
    for (const [label, chance, box] of network.answers) {
      if (!box.length) continue;
      const [left, top, right, bottom] = box.map((value) => value * scale), text = `${label} ${chance.toFixed(2)}`;
      context.lineWidth = 2;
      context.strokeStyle = "#fff";
      context.strokeRect(left, top, right - left, bottom - top);
      context.fillStyle = "#000a";
      context.fillRect(left, top, context.measureText(text).width + 6, 18);
      context.fillStyle = "#fff";
      context.fillText(text, left + 3, top + 14);
    }
  };

  // --- the parts of a network's column, made when the scene changes ---
  const column = (network, n) => {
    const stage = canvasFor(n, 480);
    stage.className = "stage";
    stage.tabIndex = 0;
    stage.setAttribute("role", "application");
    stage.setAttribute("aria-roledescription", "image to look from; arrow keys move the point");
    const move = (event) => {
      const box = stage.getBoundingClientRect();
      look([(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]);
    };
    stage.onpointerdown = (event) => { stage.setPointerCapture(event.pointerId); move(event); };
    stage.onpointermove = (event) => { if (event.buttons) move(event); };
    stage.onkeydown = (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!step) return;
      event.preventDefault();
      const layer = network.layers[chosen[n].layer], cell = cellOf(layer);
      look([1, 0].map((axis) => (Math.min(Math.max(cell[axis] + step[axis], 0), layer.grid[axis] - 1) + 0.5) * layer.cell[axis]));
    };
    const layers = choice(network.layers.map((layer, l) => [l, `${layer.name} (${layer.full.join("x")})`]), (l) => pick(n, l, chosen[n].head));
    const heads = choice([], (head) => pick(n, chosen[n].layer, head));
    const said = make("p", { className: "said" }, ...network.answers.map(([label, chance]) => make("span", { textContent: `${label} ${(100 * chance).toFixed(1)}%` })));
    if (!network.answers.length) said.textContent = "nothing found";
    const status = make("p", { className: "status", marks: { "aria-live": "polite" } });
    const thumbs = make("div", { className: "thumbs" });
    const numbers = make("details", { className: "numbers", ontoggle: () => drawNumbers(n) }, make("summary", { textContent: "Numbers" }), make("div"));
    const save = make("button", { type: "button", textContent: "Download picture", onclick: () => download(n) });
    const fixed = network.fixed.map((map) => {
      const canvas = canvasFor(n, 132);
      return { map, canvas, node: make("figure", {}, canvas, make("figcaption", { textContent: map.name })) };
    });
    const node = make("section", { className: "network", marks: { "aria-label": network.title } },
      make("div", {}, make("h3", { textContent: network.title }), said, stage),
      make("div", {}, make("p", {}, labelled("Layer", layers), labelled("Head", heads)), status, thumbs, make("div", { className: "fixed" }, ...fixed.map((one) => one.node)), numbers, save));
    return { node, stage, layers, heads, status, thumbs, numbers, fixed, canvases: [] };
  };
  let built = [];

  // --- what follows from a choice ---
  const pick = (n, l, head) => {
    chosen[n] = { layer: l, head: Math.min(head, columns()[n].layers[l].heads - 1) };
    arrange(n);
    draw();
  };
  const arrange = (n) => {
    const network = columns()[n], at = built[n], { layer, head } = chosen[n];
    at.layers.value = layer;
    at.heads.replaceChildren(...[MEAN, ...Array(network.layers[layer].heads).keys()].map((h) => make("option", { value: h, textContent: headName(h) })));
    at.heads.value = head;
    const shown = state.view === "heads" ? [layer] : [...network.layers.keys()], width = state.view === "heads" ? 132 : 66;
    at.canvases = [];
    at.thumbs.replaceChildren(...shown.map((l) => make("div", { className: "row" },
      make("span", { className: "name", textContent: network.layers[l].name }),
      ...[...Array(network.layers[l].heads).keys()].map((h) => {
        const canvas = canvasFor(n, width), button = make("button", { type: "button", className: "thumb", onclick: () => pick(n, l, h) }, canvas);
        at.canvases.push({ canvas, button, l, h });
        return button;
      }))));
  };
  const draw = () => {
    columns().forEach((network, n) => {
      const at = built[n], { layer, head } = chosen[n];
      paint(at.stage, n, weightsOf(n, layer, head), network.layers[layer], true);
      drawBoxes(at.stage, network);
      at.status.textContent = tell(n, layer, head);
      const cell = cellOf(network.layers[layer]);
      at.stage.setAttribute("aria-label", `${scene().name}; from row ${cell[0] + 1}, column ${cell[1] + 1} of ${network.layers[layer].grid.join("x")}: ${at.status.textContent}`);
      for (const { canvas, button, l, h } of at.canvases) {
        paint(canvas, n, weightsOf(n, l, h), network.layers[l], true);
        button.setAttribute("aria-label", tell(n, l, h));
        button.title = tell(n, l, h);
        button.setAttribute("aria-pressed", String(l === layer && h === head));
      }
      for (const { map, canvas } of at.fixed) {
        const shape = { grid: map.grid, cell: map.grid.map((edge) => 1 / edge) };
        paint(canvas, n, Float32Array.from(mountViewer.decode(map).maps), shape, false);
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", map.name);
      }
      drawNumbers(n);
    });
  };
  const drawNumbers = (n) => {
    const at = built[n], { layer, head } = chosen[n];
    if (!at.numbers.open) return;
    const weights = weightsOf(n, layer, head), [height, width] = columns()[n].layers[layer].grid, cell = cellOf(columns()[n].layers[layer]);
    const table = make("table", {}, make("caption", { textContent: `Weights in percent, ${tell(n, layer, head)}` }));
    for (let row = 0; row < height && weights; row++) {
      table.append(make("tr", {}, ...Array.from({ length: width }, (_, i) => {
        const value = weights[row * width + i];
        return make("td", { textContent: (100 * value).toFixed(2), className: row === cell[0] && i === cell[1] ? "query" : "", marks: { "data-weight": value } });
      })));
    }
    at.numbers.lastChild.replaceChildren(table);
  };
  const look = (point) => {
    state.point = point.map((share) => Math.min(Math.max(share, 0), 1 - 1e-6));
    return renew();
  };
  const renew = async () => { // one question at a time; the last point is always asked for
    if (busy) { again = true; return; }
    busy = true;
    try {
      do {
        again = false;
        const start = performance.now(), asked = state.scene, given = ask(asked, state.point, state.part);
        const found = given instanceof Promise ? await given : given;
        if (asked !== state.scene) { again = true; continue; }
        answers = found;
        draw();
        root.dataset.milliseconds = (performance.now() - start).toFixed(1);
        root.dataset.point = state.point.join(" ");
        root.dataset.part = state.part;
      } while (again);
    } catch (error) {
      built.forEach((at) => { at.status.textContent = `No answer: ${error.message ?? error}. Choose the image again.`; });
    } finally {
      busy = false;
    }
  };
  const show = (index) => {
    state.scene = index;
    answers = null;
    chosen = columns().map((network) => ({ layer: network.layers.length - 1, head: MEAN }));
    pictures = columns().map((network) => make("img", { src: network.picture, onload: draw }));
    built = columns().map(column);
    body.replaceChildren(...built.map((at) => at.node));
    built.forEach((_, n) => arrange(n));
    return renew();
  };
  const download = (n) => {
    const at = built[n], network = columns()[n], gap = 8, wide = Math.max(at.stage.width, 9 * 74), sizes = at.canvases.map(({ canvas }) => canvas);
    const across = Math.max(1, Math.floor(wide / (sizes[0].width + gap))), rows = Math.ceil(sizes.length / across), tall = sizes[0].height + 18 + gap;
    const sheet = make("canvas", { width: wide + 2 * gap, height: at.stage.height + rows * tall + 60 }), context = sheet.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, sheet.width, sheet.height);
    context.fillStyle = "#111";
    context.font = "13px system-ui, sans-serif";
    context.fillText(`${network.title}: ${scene().name}`, gap, 18);
    context.fillText(tell(n, chosen[n].layer, chosen[n].head), gap, 36);
    context.drawImage(at.stage, gap, 46);
    at.canvases.forEach(({ canvas, l, h }, i) => {
      const x = gap + (i % across) * (canvas.width + gap), y = at.stage.height + 56 + Math.floor(i / across) * tall;
      context.drawImage(canvas, x, y + 16);
      context.fillText(state.view === "heads" ? `head ${h + 1}` : `${l + 1}.${h + 1}`, x, y + 12);
    });
    make("a", { href: sheet.toDataURL("image/png"), download: `${network.title}-${scene().name}`.replace(/[^\w-]+/g, "_") + ".png" }).click();
  };

  // --- the frame around ---
  const views = choice([], () => {});
  [["heads", "head view: one layer"], ["layers", "model view: all layers"]].forEach(([value, text]) => views.append(make("option", { value, textContent: text })));
  views.onchange = () => { state.view = views.value; built.forEach((_, n) => arrange(n)); draw(); };
  const strength = make("input", { type: "range", min: 0, max: 1, step: 0.05, value: state.strength, oninput: () => { state.strength = Number(strength.value); draw(); } });
  const part = make("select", { onchange: () => { state.part = part.value; renew(); } });
  parts.forEach((name) => part.append(make("option", { value: name, textContent: name === "both" ? "content and position" : `${name} only` })));
  const bar = make("div", { className: "bar" });
  if (scenes.length > 1) bar.append(labelled("Image", choice(scenes.map((one, i) => [i, one.name]), show)));
  bar.append(labelled("View", views), labelled("Overlay", strength));
  if (parts.length > 1) bar.append(labelled("Logits", part));
  const body = make("div", { className: "networks" });
  root.classList.add("aa-viewer");
  root.replaceChildren(bar, body);
  return show(0);
}

mountViewer.decode = ({ maps, peaks }) => {
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return { maps: bytes(maps), peaks: new Float32Array(bytes(peaks).buffer) };
};

// A source for mountViewer of looks whose layers hold the maps of every cell.
mountViewer.embedded = (scenes) => {
  const all = scenes.map((scene) => scene.networks.map((network) => network.layers.map(mountViewer.decode)));
  return (index, [x, y]) => scenes[index].networks.map((network, n) => network.layers.map((layer, l) => {
    const [height, width] = layer.grid, cells = height * width, { maps, peaks } = all[index][n][l];
    const at = Math.min(Math.floor(y / layer.cell[0]), height - 1) * width + Math.min(Math.floor(x / layer.cell[1]), width - 1);
    const heads = [...Array(layer.heads).keys()], found = new Uint8Array(layer.heads * cells);
    heads.forEach((h) => found.set(maps.subarray((h * cells + at) * cells, (h * cells + at + 1) * cells), h * cells));
    return { maps: found, peaks: Float32Array.from(heads, (h) => peaks[h * cells + at]) };
  }));
};
