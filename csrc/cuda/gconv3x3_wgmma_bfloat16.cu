#include "gconv3x3_wgmma_launch.cuh"

namespace regnet_kernels {

template cudaError_t launch_gconv3x3_wgmma_of<device::BFloat16>(const WgmmaPlan&, const void*, const void*, const float*, void*, float*,
                                                                cudaStream_t);

}  // namespace regnet_kernels
