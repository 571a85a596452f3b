#include "dali_operator.h"

namespace ecg {

template <>
void ModelInputOperator<dali::CPUBackend>::RunImpl(dali::Workspace& ws) {
    const std::vector<Recipe> all = recipes(ws);
    auto& pool = ws.GetThreadPool();
    for (size_t i = 0; i < all.size(); ++i) {
        pool.AddWork([&, i](int) {
            const Job to_do = job(ws, static_cast<int>(i), all[i], nullptr);
            write_record(all[i], to_do.payload, *resamplers_.of(to_do.layout, to_do.taps), clip_, samples_, to_do.out);
        });
    }
    pool.RunAll();
}

}  // namespace ecg

DALI_SCHEMA(EcgModelInput)
    .DocStr("Payloads of ECGs to the input of one model.")
    .NumInput(3)
    .InputDevice(2, dali::InputDevice::CPU)
    .NumOutput(1)
    .AddArg("n_leads", "Rows of the model's input.", DALI_INT32)
    .AddArg("samples", "Its columns.", DALI_INT32)
    .AddArg("clip", "Its largest magnitude.", DALI_FLOAT);

DALI_REGISTER_OPERATOR(EcgModelInput, ::ecg::ModelInputOperator<::dali::CPUBackend>, ::dali::CPU);
