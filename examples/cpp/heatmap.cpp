// Which classes a picture shows, and where: with ONNX Runtime alone, from a file of `camcore export --embed`.
//   g++ -std=c++17 heatmap.cpp -I$ORT/include -L$ORT/lib -lonnxruntime -o heatmap
//   ORT_DISABLE_TELEMETRY=1 ./heatmap model.cam.onnx image.f32     (1, C, H, W) float32, as the model takes it
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <stdexcept>

std::string label(const std::string& json, int n) {  // the n-th text of a JSON list, "class n" where there is none
  std::string text;
  for (size_t i = 0, quotes = 0; i < json.size(); ++i) {
    if (json[i] == '"' && quotes++ == 2 * size_t(n) + 1) return text;
    if (json[i] == '"') text.clear();
    else text += json[json[i] == '\\' ? ++i : i];
  }
  return "class " + std::to_string(n);
}

int main(int argc, char** argv) try {
  if (argc < 2) throw std::runtime_error("usage: heatmap model.cam.onnx [image.f32]");
  Ort::Env env;
  Ort::Session session(env, argv[1], Ort::SessionOptions{});
  Ort::AllocatorWithDefaultOptions allocator;
  auto shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
  if (shape.size() != 4) throw std::runtime_error("the model takes no images (N, C, H, W)");
  for (int i = 0; i < 4; ++i) shape[i] = shape[i] > 0 ? shape[i] : i == 0 ? 1 : i == 1 ? 3 : 224;  // free sizes
  std::vector<float> image(shape[0] * shape[1] * shape[2] * shape[3]);
  for (size_t i = 0; i < image.size(); ++i) image[i] = float(i % 255) / 255;  // any picture, where no file is given
  if (argc > 2) {
    std::ifstream file(argv[2], std::ios::binary | std::ios::ate);
    if (file.tellg() != std::streamoff(image.size() * sizeof(float)))
      throw std::runtime_error(argv[2] + (": expected " + std::to_string(image.size())) + " float32");
    file.seekg(0).read(reinterpret_cast<char*>(image.data()), image.size() * sizeof(float));
  }
  const auto input = session.GetInputNameAllocated(0, allocator);
  const char *inputs[] = {input.get()}, *outputs[] = {"cam", "cam_classes", "cam_scores"};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto tensor = Ort::Value::CreateTensor<float>(memory, image.data(), image.size(), shape.data(), shape.size());
  auto results = session.Run(Ort::RunOptions{}, inputs, &tensor, 1, outputs, 3);
  const auto labels = session.GetModelMetadata().LookupCustomMetadataMapAllocated("camcore.labels", allocator);
  const auto size = results[0].GetTensorTypeAndShapeInfo().GetShape();  // (N, T, h, w)
  for (int64_t t = 0, cells = size[2] * size[3]; t < size[1]; ++t) {
    const float* map = results[0].GetTensorData<float>() + t * cells;
    const auto peak = std::max_element(map, map + cells) - map;  // a cell; its middle in pixels of the input:
    const auto x = (2 * (peak % size[3]) + 1) * shape[3] / (2 * size[3]);
    const auto y = (2 * (peak / size[3]) + 1) * shape[2] / (2 * size[2]);
    const auto n = results[1].GetTensorData<int32_t>()[t];
    std::cout << label(labels ? labels.get() : "", n) << " (" << n << "), score "
              << results[2].GetTensorData<float>()[t] << ", peak at pixel " << x << ", " << y << "\n";
  }
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
