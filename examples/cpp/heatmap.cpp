// Which classes a picture shows, and where: with ONNX Runtime alone, from a file of `camcore export --embed --classes top5`.
//   g++ -std=c++17 heatmap.cpp -I$ORT/include -L$ORT/lib -lonnxruntime -o heatmap
//   ORT_DISABLE_TELEMETRY=1 ./heatmap model.cam.onnx image.f32     (1, C, H, W) float32, as the model takes it
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <stdexcept>

std::string nth_text(const std::string& json, int n) {  // of a JSON list of texts; "class n" where there are none
  std::string text;
  for (size_t i = 0, quotes = 0; i < json.size(); ++i) {
    if (json[i] == '"' && ++quotes % 2 == 1) text.clear();
    else if (json[i] == '"' && quotes == 2 * size_t(n) + 2) return text;
    else text += json[json[i] == '\\' ? ++i : i];
  }
  return "class " + std::to_string(n);
}

int main(int argc, char** argv) try {
  if (argc < 2) throw std::runtime_error("usage: heatmap model.cam.onnx [image.f32]");
  Ort::Env env;
  Ort::Session session(env, argv[1], Ort::SessionOptions{});
  Ort::AllocatorWithDefaultOptions allocator;
  const auto input = session.GetInputNameAllocated(0, allocator);
  auto shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
  const int64_t usual[] = {1, 3, 224, 224};  // where the model leaves a size free
  for (size_t i = 0; i < shape.size(); ++i) if (shape[i] < 0) shape[i] = usual[i];
  std::vector<float> image(shape[0] * shape[1] * shape[2] * shape[3]);
  for (size_t i = 0; i < image.size(); ++i) image[i] = float(i % 255) / 255;  // without a file, any picture
  if (argc > 2 && !std::ifstream(argv[2], std::ios::binary).read(reinterpret_cast<char*>(image.data()), image.size() * 4))
    throw std::runtime_error(std::string(argv[2]) + ": expected " + std::to_string(image.size()) + " float32");

  const char *inputs[] = {input.get()}, *outputs[] = {"cam", "cam_classes", "cam_scores"};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto tensor = Ort::Value::CreateTensor<float>(memory, image.data(), image.size(), shape.data(), shape.size());
  auto results = session.Run(Ort::RunOptions{}, inputs, &tensor, 1, outputs, 3);
  const auto labels = session.GetModelMetadata().LookupCustomMetadataMapAllocated("camcore.labels", allocator);
  const auto size = results[0].GetTensorTypeAndShapeInfo().GetShape();  // (N, T, h, w)
  for (int64_t t = 0, cells = size[2] * size[3]; t < size[1]; ++t) {
    const float* map = results[0].GetTensorData<float>() + t * cells;
    const auto peak = std::max_element(map, map + cells) - map;
    const int index = results[1].GetTensorData<int32_t>()[t];
    std::cout << nth_text(labels ? labels.get() : "", index) << " (" << index << "), score "
              << results[2].GetTensorData<float>()[t] << ", peak at pixel "
              << (2 * (peak % size[3]) + 1) * shape[3] / (2 * size[3]) << ", "
              << (2 * (peak / size[3]) + 1) * shape[2] / (2 * size[2]) << "\n";
  }
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
