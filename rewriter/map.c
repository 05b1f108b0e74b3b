#include "rewriter/overlay.h"
