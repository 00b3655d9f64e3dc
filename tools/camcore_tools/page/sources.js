// Where pictures come from: a camera, a video, pictures that were dropped or that the server lists.
//
// A source has `element` (what is drawn and explained), `live`, `mirrored`, `name`, and stop().

const MOST_PIXELS = 100e6;

/** What went wrong, and what the reader can do about it. */
export class Trouble extends Error {
  constructor(kind, title, advice) {
    super(`${title} ${advice}`);
    Object.assign(this, { kind, title, advice });
  }
}

const CAMERA_TROUBLES = {
  NotAllowedError: ["refused", "The camera was refused.", "Allow it at the camera sign in the address bar: this page then goes on by itself."],
  NotFoundError: ["absent", "No camera is there.", "Plug one in: this page goes on by itself."],
  NotReadableError: ["busy", "The camera is in use.", "Another program has it, or the system keeps it back. Close that program, then try again."],
};
CAMERA_TROUBLES.SecurityError = CAMERA_TROUBLES.NotAllowedError;
CAMERA_TROUBLES.AbortError = CAMERA_TROUBLES.NotReadableError;

function cameraTrouble(error) {
  const [kind, title, advice] = CAMERA_TROUBLES[error.name] ?? ["failed", "The camera does not work.", `The browser says: ${error.message || error.name}.`];
  return new Trouble(kind, title, advice);
}

function video() {
  const element = document.createElement("video");
  Object.assign(element, { muted: true, playsInline: true, loop: true });
  return element;
}

async function started(element) {
  await new Promise((resolve, reject) => {
    element.onloadeddata = resolve;
    element.onerror = () => reject(new Trouble("video", "This video cannot be played here.", "Take one in MP4 (H.264) or WebM."));
    element.play().catch(() => {}); // refused without a click in some browsers; the first frame is there all the same
  });
  return element;
}

// ---- the camera

export class Camera {
  live = true;
  name = "camera";
  onlost = () => {};

  /** Ask for a camera: the next one after `before` where that is given. */
  static async open(before = null) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Trouble("insecure", "Cameras work on https and localhost only.", "Open this page there, or take a picture from a file.");
    }
    const camera = new Camera();
    try {
      camera.stream = await navigator.mediaDevices.getUserMedia({ video: await wanted(before), audio: false });
      [camera.track] = camera.stream.getVideoTracks();
      camera.track.addEventListener("ended", () => camera.onlost());
      camera.element = video();
      camera.element.srcObject = camera.stream;
      await started(camera.element);
      const { facingMode, deviceId } = camera.track.getSettings();
      return Object.assign(camera, { facing: facingMode ?? "", device: deviceId, mirrored: facingMode !== "environment" });
    } catch (error) {
      camera.stream?.getTracks().forEach((track) => track.stop());
      throw error instanceof Trouble ? error : cameraTrouble(error);
    }
  }

  static async count() {
    return (await cameras()).length;
  }

  stop() {
    this.onlost = () => {};
    this.stream.getTracks().forEach((track) => track.stop());
    this.element.srcObject = null;
  }
}

const cameras = async () => (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");

/** On phones the camera of the other side; elsewhere the next one of the list. */
async function wanted(before) {
  const size = { width: { ideal: 1280 }, height: { ideal: 720 } };
  if (!before) return { ...size, facingMode: { ideal: "environment" } };
  if (before.facing) return { ...size, facingMode: { ideal: before.facing === "user" ? "environment" : "user" } };
  const all = await cameras(), at = all.findIndex(({ deviceId }) => deviceId === before.device);
  return { ...size, deviceId: { ideal: all[(at + 1) % all.length]?.deviceId } };
}

/** Call back when a camera may be there again: plugged in, or allowed. */
export async function whenCamerasChange(again) {
  navigator.mediaDevices?.addEventListener("devicechange", again);
  const permission = await navigator.permissions?.query({ name: "camera" }).catch(() => null); // not known to all
  permission?.addEventListener("change", () => permission.state !== "denied" && again());
}

// ---- videos

export class Video {
  live = true;
  mirrored = false;

  static async open(address, name) {
    const source = Object.assign(new Video(), { name, element: video(), address });
    source.element.src = address;
    await started(source.element);
    return source;
  }

  stop() {
    this.element.pause();
    this.element.removeAttribute("src");
    if (this.address.startsWith("blob:")) URL.revokeObjectURL(this.address);
  }
}

// ---- pictures

export class Pictures {
  live = false;
  mirrored = false;
  at = 0;

  /** Of files or of {id, name, url}. */
  constructor(items) {
    this.items = items;
  }

  get name() {
    return this.items[this.at].name;
  }

  /** What the server knows the picture by. */
  get id() {
    return this.items[this.at].id ?? null;
  }

  get count() {
    return this.items.length;
  }

  /** Decode the picture `at`; the one before goes. */
  async show(at) {
    const place = (at + this.count) % this.count;
    const picture = await decoded(this.items[place]);
    this.element?.close();
    this.element = picture;
    this.at = place;
    return this;
  }

  stop() {
    this.element?.close();
  }
}

async function decoded(item) {
  const { name } = item;
  let picture;
  try {
    const file = item instanceof Blob ? item : await fetched(item.url);
    // The numbers as they are in the file, as Python reads them.
    picture = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch (error) {
    if (error instanceof Trouble) throw error;
    throw new Trouble("picture", "This is no picture that the browser can read.", `${name}: take a PNG, JPEG or WebP.`);
  }
  if (picture.width * picture.height <= MOST_PIXELS) return picture;
  picture.close();
  throw new Trouble("picture", "This picture is too large.", `${name} has more than 100 megapixels: reduce it first.`);
}

async function fetched(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Trouble("picture", "This picture cannot be loaded.", `The server says ${response.status}.`);
  return response.blob();
}

/** What files hold: the pictures among them, or the first video; null where there is neither. */
export async function fromFiles(files) {
  const all = [...files], pictures = all.filter(({ type }) => type.startsWith("image/"));
  const film = all.find(({ type }) => type.startsWith("video/"));
  if (pictures.length) return new Pictures(pictures).show(0);
  if (film) return Video.open(URL.createObjectURL(film), film.name);
  return null;
}
