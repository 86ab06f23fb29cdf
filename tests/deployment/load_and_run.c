// Loads a SavedModel by TensorFlow's C API, as TensorFlow Serving does, and prints the probabilities of one grey image.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tensorflow/c/c_api.h>

static void check(TF_Status *status) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s\n", TF_Message(status));
  exit(1);
}

int main(int count, char **arguments) {  // the SavedModel's folder, names of the input's and the output's operations
  if (count != 6) return 2;
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, arguments[1], tags, 1, graph, NULL, status);
  check(status);
  const int64_t shape[] = {1, 64, 64, 3};
  TF_Tensor *pixels = TF_AllocateTensor(TF_UINT8, shape, 4, 64 * 64 * 3);
  memset(TF_TensorData(pixels), 100, 64 * 64 * 3);
  TF_Output input = {TF_GraphOperationByName(graph, arguments[2]), atoi(arguments[3])};
  TF_Output output = {TF_GraphOperationByName(graph, arguments[4]), atoi(arguments[5])};
  TF_Tensor *probabilities = NULL;
  TF_SessionRun(session, NULL, &input, &pixels, 1, &output, &probabilities, 1, NULL, 0, NULL, status);
  check(status);
  for (int64_t index = 0; index < TF_Dim(probabilities, 1); ++index)
    printf("%.6f\n", ((float *)TF_TensorData(probabilities))[index]);
  TF_CloseSession(session, status);
  return 0;
}
