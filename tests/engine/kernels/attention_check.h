#include "gptoss.h"

/* How many values of the attention kernels differ from the scalar ones; each is printed. */
int check_attention(const IsaKernels *use);
