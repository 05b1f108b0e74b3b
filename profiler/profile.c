#include "profiler/profile.h"
