// What the card does to pages before and after the models; `worker/kernels.py` launches it.
// Images are uint8[H][W][3], RGB. Tensors are float32[N][3][H][W], BGR, (value / 255 - 0.5) / 0.5, 0 where no image is.

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

typedef unsigned char uint8;

// Fields as in `worker.kernels.SHRUNK`.
struct Shrunk {
    const uint8 *page;
    int height, width;  // of the page
    int rows, columns;  // of its image in the tensor
};

// Fields as in `worker.kernels.CUT`. `warp` takes a pixel (x, y, 1) of the crop to the page's.
struct Cut {
    const uint8 *page;
    int height, width;
    int columns, unused;
    double warp[9];
};

// `rgb` is negative where no image is.
__device__ static inline void put(float *tensor, int slot, int y, int x, int height, int width, const float *rgb) {
    const long long plane = (long long)height * width;
    float *at = tensor + (long long)slot * 3 * plane + (long long)y * width + x;
    for (int channel = 0; channel < 3; channel++)
        at[(2 - channel) * plane] = rgb[channel] < 0 ? 0.0f : rgb[channel] / 127.5f - 1.0f;
}

// To the nearest grey level, as images are stored between two steps on the CPU.
__device__ static inline float level(float value) { return fminf(fmaxf(rintf(value), 0.0f), 255.0f); }

// The mean of the page's pixels under one pixel of a smaller image, those at the rim by the part that lies under it:
// OpenCV's INTER_AREA.
__device__ static void mean_under(const Shrunk &item, int y, int x, float *rgb) {
    const double down = (double)item.height / item.rows, across = (double)item.width / item.columns;
    const double top = y * down, bottom = fmin(top + down, (double)item.height);
    const double left = x * across, right = fmin(left + across, (double)item.width);
    float sum[3] = {0, 0, 0}, weight = 0;
    for (int row = (int)top; row < bottom; row++) {
        const float high = (float)(fmin(row + 1.0, bottom) - fmax((double)row, top));
        const uint8 *line = item.page + (long long)row * item.width * 3;
        for (int column = (int)left; column < right; column++) {
            const float part = high * (float)(fmin(column + 1.0, right) - fmax((double)column, left));
            for (int channel = 0; channel < 3; channel++) sum[channel] += part * line[column * 3 + channel];
            weight += part;
        }
    }
    for (int channel = 0; channel < 3; channel++) rgb[channel] = level(sum[channel] / weight);
}

// Between the four nearest pixels, whose middles the grids share: OpenCV's INTER_LINEAR.
__device__ static void between(const Shrunk &item, int y, int x, float *rgb) {
    const float v = (y + 0.5f) * item.height / item.rows - 0.5f, u = (x + 0.5f) * item.width / item.columns - 0.5f;
    const int top = (int)floorf(v), left = (int)floorf(u);
    const float down = v - top, across = u - left;
    for (int channel = 0; channel < 3; channel++) {
        float sum = 0;
        for (int corner = 0; corner < 4; corner++) {
            const int row = min(max(top + corner / 2, 0), item.height - 1);
            const int column = min(max(left + corner % 2, 0), item.width - 1);
            const float part = (corner / 2 ? down : 1 - down) * (corner % 2 ? across : 1 - across);
            sum += part * item.page[((long long)row * item.width + column) * 3 + channel];
        }
        rgb[channel] = level(sum);
    }
}

// One thread a pixel of the tensor: x across, y down, z the slot.
extern "C" __global__ void shrink(const Shrunk *items, int count, float *tensor, int height, int width) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y, slot = blockIdx.z;
    if (x >= width || y >= height) return;
    float rgb[3] = {-1, -1, -1};
    if (slot < count && y < items[slot].rows && x < items[slot].columns) {
        const Shrunk item = items[slot];
        if (item.rows < item.height || item.columns < item.width)
            mean_under(item, y, x, rgb);
        else
            between(item, y, x, rgb);
    }
    put(tensor, slot, y, x, height, width, rgb);
}

// Weights of the four pixels around a point that lies `t` behind the second: OpenCV's INTER_CUBIC (Keys, a = -0.75).
__device__ static inline void cubic(float t, float *weights) {
    const float a = -0.75f;
    weights[0] = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a;
    weights[1] = ((a + 2) * t - (a + 3)) * t * t + 1;
    weights[2] = ((a + 2) * (1 - t) - (a + 3)) * (1 - t) * (1 - t) + 1;
    weights[3] = 1 - weights[0] - weights[1] - weights[2];
}

__device__ static void around(const Cut &item, double v, double u, float *rgb) {
    const int top = (int)floor(v), left = (int)floor(u);
    float rows[4], columns[4], sum[3] = {0, 0, 0};
    cubic((float)(v - top), rows);
    cubic((float)(u - left), columns);
    for (int i = 0; i < 4; i++) {
        const uint8 *line = item.page + (long long)min(max(top - 1 + i, 0), item.height - 1) * item.width * 3;
        for (int j = 0; j < 4; j++) {
            const uint8 *pixel = line + min(max(left - 1 + j, 0), item.width - 1) * 3;
            const float part = rows[i] * columns[j];
            for (int channel = 0; channel < 3; channel++) sum[channel] += part * pixel[channel];
        }
    }
    for (int channel = 0; channel < 3; channel++) rgb[channel] = level(sum[channel]);
}

// One thread a pixel of the tensor, as in `shrink`.
extern "C" __global__ void cut(const Cut *items, int count, float *tensor, int height, int width) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y, slot = blockIdx.z;
    if (x >= width || y >= height) return;
    float rgb[3] = {-1, -1, -1};
    if (slot < count && x < items[slot].columns) {
        const Cut &item = items[slot];
        const double *m = item.warp;
        const double w = m[6] * x + m[7] * y + m[8];
        const double u = (m[0] * x + m[1] * y + m[2]) / w, v = (m[3] * x + m[4] * y + m[5]) / w;
        // Far outside, the rim goes on; and no number overflows.
        around(item, fmin(fmax(v, -8.0), item.height + 8.0), fmin(fmax(u, -8.0), item.width + 8.0), rgb);
    }
    put(tensor, slot, y, x, height, width, rgb);
}

#ifdef __CUDACC__
#define LOWEST -3.402823466e+38f

__device__ static inline float as_float(float value) { return value; }
__device__ static inline float as_float(__half value) { return __half2float(value); }

// The best class of one step and its softmax probability, 1 / sum(exp(logit - best)); one block a step.
template <typename Logit>
__device__ static void best_of(const Logit *logits, float *answers, int classes) {
    const Logit *row = logits + (long long)blockIdx.x * classes;
    float best = LOWEST, sum = 0;
    int index = 0;
    for (int n = threadIdx.x; n < classes; n += blockDim.x) {
        const float value = as_float(row[n]);
        if (value > best) {
            sum = sum * __expf(best - value) + 1;
            best = value;
            index = n;
        } else
            sum += __expf(value - best);
    }
    __shared__ float bests[32], sums[32];
    __shared__ int indices[32];
    for (int stage = 0; stage < 2; stage++) {
        for (int offset = 16; offset; offset /= 2) {
            const float other = __shfl_down_sync(0xffffffffu, best, offset);
            const float others = __shfl_down_sync(0xffffffffu, sum, offset);
            const int where = __shfl_down_sync(0xffffffffu, index, offset);
            const float larger = fmaxf(best, other);
            sum = sum * __expf(best - larger) + others * __expf(other - larger);
            // Of equal classes the first, as numpy and ONNX have it.
            if (other > best || (other == best && where < index)) index = where;
            best = larger;
        }
        if (stage) break;
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        if (!lane) bests[warp] = best, sums[warp] = sum, indices[warp] = index;
        __syncthreads();
        if (warp) return;
        const bool there = lane < (int)blockDim.x / 32;
        best = there ? bests[lane] : LOWEST;
        sum = there ? sums[lane] : 0;
        index = there ? indices[lane] : 0x7fffffff;
    }
    if (!threadIdx.x) {
        answers[blockIdx.x * 2] = (float)index;
        answers[blockIdx.x * 2 + 1] = 1 / sum;
    }
}

extern "C" __global__ void best_classes_half(const __half *logits, float *answers, int classes) {
    best_of(logits, answers, classes);
}

extern "C" __global__ void best_classes_single(const float *logits, float *answers, int classes) {
    best_of(logits, answers, classes);
}
#endif
