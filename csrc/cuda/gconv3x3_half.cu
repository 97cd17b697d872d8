#include "gconv3x3_launch.cuh"

namespace regnet_kernels {

template cudaError_t launch_gconv3x3_16bit<device::Half>(const GroupedConvPlan&, const void*, const void*,
                                                      const float*, void*, float*, cudaStream_t);

}  // namespace regnet_kernels
