// Pictures with boxes: large, to draw in with mouse or finger, and small.

const SVG = "http://www.w3.org/2000/svg";
const LEAST_SIDE = 5;     // of a box, in pixels of the screen
const REACH = { mouse: 12, pen: 16, touch: 26 };  // how near to a corner counts as on it

// A picture with boxes {box: [x1, y1, x2, y2], colour: 0.., kind: "given" | "found", isWeak, label}.
export function drawPicture(picture, boxes, width, height, { tags = false } = {}) {
  const holder = document.createElement("div");
  holder.className = "picture";
  holder.style.width = `${width}px`;
  holder.style.height = `${height}px`;
  const image = document.createElement("img");
  image.src = picture.url;
  image.alt = picture.name;
  image.draggable = false;
  image.classList.toggle("small", Math.max(picture.width, picture.height) <= 256);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${picture.width} ${picture.height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  holder.append(image, svg);
  for (const one of boxes) {
    const weak = one.isWeak ? " weak" : "";
    svg.append(rectangle(one.box, `under${weak}`), rectangle(one.box, `${one.kind === "given" ? "given" : "answer"}${weak} object${one.colour}`));
    if (tags && !one.isWeak) holder.append(tag(one, picture));
  }
  return holder;
}

function rectangle(box, classes) {
  const rect = document.createElementNS(SVG, "rect");
  place(rect, box);
  rect.setAttribute("class", classes);
  return rect;
}

function place(rect, [x1, y1, x2, y2]) {
  const values = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
  for (const [name, value] of Object.entries(values)) rect.setAttribute(name, value);
}

function tag(one, picture) {
  const label = document.createElement("span");
  const isHigh = one.box[1] / picture.height > 0.08;
  label.className = `tag object${one.colour}${isHigh ? " above" : ""}`;
  label.textContent = one.label;
  const isRight = one.box[0] / picture.width > 0.6;
  if (isRight) label.style.right = `${100 - (100 * one.box[2]) / picture.width}%`;
  else label.style.left = `${(100 * one.box[0]) / picture.width}%`;
  label.style.top = `${(100 * one.box[1]) / picture.height}%`;
  return label;
}

// The large picture. `onBox(box, index)` is called with a box that was drawn, and the place of the one that it
// stands in for, or -1.
export class Stage {
  constructor(element, onBox) {
    this.element = element;
    this.onBox = onBox;
    this.picture = null;
    this.given = [];
    this.drag = null;
    addEventListener("keydown", (event) => { if (event.key === "Escape") this.cancel(); });
  }

  // `given` are the boxes that were drawn, among `boxes`, which have corners to take hold of.
  show(picture, boxes, given) {
    this.picture = picture;
    this.given = given;
    const room = { width: this.element.clientWidth, height: Math.max(220, innerHeight * (innerWidth <= 700 ? 0.5 : 0.62)) };
    this.scale = Math.min(room.width / picture.width, room.height / picture.height);
    const size = [picture.width * this.scale, picture.height * this.scale];
    this.holder = drawPicture(picture, boxes, ...size, { tags: true });
    for (const one of given) for (const [x, y] of corners(one.box)) this.holder.append(this.handle(x, y, one.colour));
    this.holder.addEventListener("pointerdown", (event) => this.begin(event));
    this.holder.addEventListener("pointermove", (event) => this.move(event));
    this.holder.addEventListener("pointerup", (event) => this.end(event));
    this.holder.addEventListener("pointercancel", () => this.cancel());
    this.element.replaceChildren(this.holder);
    this.drag = null;
  }

  handle(x, y, colour) {
    const dot = document.createElement("i");
    dot.className = `corner object${colour}`;
    dot.style.left = `${x * this.scale}px`;
    dot.style.top = `${y * this.scale}px`;
    return dot;
  }

  point(event) {
    const frame = this.holder.getBoundingClientRect();
    const within = (value, most) => Math.min(most, Math.max(0, value));
    return [
      within(((event.clientX - frame.left) / frame.width) * this.picture.width, this.picture.width),
      within(((event.clientY - frame.top) / frame.height) * this.picture.height, this.picture.height),
    ];
  }

  begin(event) {
    if (!event.isPrimary || event.button !== 0) return;
    event.preventDefault();
    document.activeElement?.blur();  // a name that is being written is written
    this.holder.setPointerCapture(event.pointerId);
    const point = this.point(event);
    const reach = (REACH[event.pointerType] ?? REACH.mouse) / this.scale;
    let anchor = point, index = -1, nearest = reach;
    this.given.forEach((one, place) => {
      for (const [x, y] of corners(one.box)) {
        const distance = Math.hypot(x - point[0], y - point[1]);
        if (distance < nearest) {
          const [x1, y1, x2, y2] = one.box;
          [nearest, index, anchor] = [distance, place, [x === x1 ? x2 : x1, y === y1 ? y2 : y1]];
        }
      }
    });
    const draft = rectangle([0, 0, 0, 0], "draft");
    this.holder.querySelector("svg").append(draft);
    this.drag = { anchor, index, draft, box: null };
    if (index >= 0) this.move(event);
  }

  move(event) {
    if (!this.drag) return;
    const [x, y] = this.point(event), [ax, ay] = this.drag.anchor;
    const box = [Math.min(x, ax), Math.min(y, ay), Math.max(x, ax), Math.max(y, ay)];
    this.drag.box = box.map((value) => Math.round(value * 100) / 100);
    place(this.drag.draft, this.drag.box);
  }

  end(event) {
    if (!this.drag) return;
    this.move(event);
    const { box, index } = this.drag;
    this.cancel();
    const isLarge = (box[2] - box[0]) * this.scale >= LEAST_SIDE && (box[3] - box[1]) * this.scale >= LEAST_SIDE;
    if (isLarge) this.onBox(box, index);
  }

  cancel() {
    this.drag?.draft.remove();
    this.drag = null;
  }
}

function corners([x1, y1, x2, y2]) {
  return [[x1, y1], [x2, y1], [x1, y2], [x2, y2]];
}
